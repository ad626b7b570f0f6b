package catalog

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"millrace/internal/mcp"
	"millrace/internal/sqldb"
)

// keyMeta is where a call's idempotency key is in its _meta.
const keyMeta = "millrace/idempotencyKey"

const (
	maxKey      = 256      // bytes of a key
	maxAnswer   = 16 << 20 // of an answer that is kept
	shortestTTL = time.Minute
	longestTTL  = 366 * 24 * time.Hour
)

// idempotency checks `idempotency:` of a tool. It gives the place of the parameter that is the key, -1 for none.
func (b *builder) idempotency(path string, t *Tool) int {
	i := t.Idempotency
	if i == nil {
		return -1
	}
	path += ".idempotency"
	if t.Annotations.ReadOnlyHint {
		b.fault(path, "goes with writes only", "remove it: a read-only tool changes nothing")
	}
	if i.TTL.Std() < shortestTTL || i.TTL.Std() > longestTTL {
		b.fault(path+".ttl", fmt.Sprintf("is %s", i.TTL.Std()), fmt.Sprintf("give %s to %s", shortestTTL, longestTTL))
	}
	if t.MaxBytes > maxAnswer {
		b.fault(path, "keeps each answer with its key, and max_bytes allows "+byteText(int64(t.MaxBytes)), "set max_bytes to "+byteText(maxAnswer)+" at most")
	}
	if i.Parameter == "" {
		return -1
	}
	at := slices.IndexFunc(t.Parameters, func(p Parameter) bool { return p.Name == i.Parameter })
	if at < 0 || t.Parameters[at].Type != "string" {
		b.fault(path+".parameter", fmt.Sprintf("the tool has no parameter %q of type string", i.Parameter), "name one that it has")
	}
	return at
}

// idempotencyKey gives the key that a call carries and where it stands; nil for none.
func (t *tool) idempotencyKey(c *mcp.Call) (key []byte, where string, err error) {
	if t.keyAt >= 0 && c.Args[t.keyAt].Kind == mcp.KindText {
		key, where = c.Args[t.keyAt].Text, fmt.Sprintf("argument %q", t.Idempotency.Parameter)
	} else {
		if c.Request == nil || c.Request.Meta.Raw == nil {
			return nil, "", nil
		}
		raw := mcp.Member(c.Request.Meta.Raw, keyMeta)
		if raw == nil {
			return nil, "", nil
		}
		key, _ = mcp.Text(raw)
		where = `_meta["` + keyMeta + `"]`
	}
	if len(key) == 0 || len(key) > maxKey {
		return nil, "", mcp.Errorf(mcp.CodeInvalidParams, "%s: an idempotency key is a string of 1 to %d bytes", where, maxKey)
	}
	return key, where, nil
}

// once gives what makes a call happen once; nil where it carries no key.
func (t *tool) once(c *mcp.Call) (*sqldb.Once, error) {
	if t.Idempotency == nil {
		return nil, nil
	}
	key, where, err := t.idempotencyKey(c)
	if key == nil {
		return nil, err
	}
	if c.NoStore && c.Answer == nil && (c.Request == nil || c.Request.InputResponses == nil) { // with answers of the user it has been asked before
		return nil, mcp.Errorf(mcp.CodeInvalidParams, "%s: the arguments hold a number that cannot be told from others, so no idempotency key can go with them", where)
	}
	o := &sqldb.Once{TTL: t.Idempotency.TTL.Std()}
	h := sha256.New()
	for _, text := range [][]byte{[]byte(c.Caller.Tenant), []byte(c.Caller.Subject), []byte(t.Name), key} {
		h.Write(binary.AppendUvarint(nil, uint64(len(text))))
		h.Write(text)
	}
	h.Sum(o.Key[:0])
	h.Reset()
	for i, v := range c.Args {
		if i != t.keyAt {
			h.Write(v.AppendKey(nil))
		}
	}
	h.Sum(o.Arguments[:0])
	return o, nil
}
