package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/zeebo/xxh3"

	"millrace/internal/mcp"
)

// seal is how entries leave the process for servers that others can read and write: under a name that says nothing, with a
// checksum and, with a secret, encrypted and authenticated, so that they cannot be read, made up, or moved to another name.
type seal struct {
	names  []byte // key of the names
	values []byte // key of the values; nil for no encryption
}

// Forms of a sealed entry, its first byte.
const (
	plainForm  = 1 // 8 bytes of checksum, the entry
	sealedForm = 2 // 16 bytes of salt, the entry under AES-256-GCM
	saltBytes  = 16
	sumBytes   = 8
)

// newSeal makes a seal of a secret of 32 bytes or more; nil for none.
func newSeal(secret []byte) (*seal, error) {
	s := &seal{names: []byte("millrace")}
	if secret != nil {
		if len(secret) < 32 {
			return nil, errors.New("the key has less than 32 bytes")
		}
		s.names, s.values = derive(secret, "names"), derive(secret, "values")
	}
	return s, nil
}

// derive gives the key of 32 bytes for a purpose.
func derive(secret []byte, purpose string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("millrace cache.l2 " + purpose))
	return mac.Sum(nil)
}

// name gives the name of a key: without the secret nobody can tell whether a name is that of a guessed call.
func (s *seal) name(key string) string {
	mac := hmac.New(sha256.New, s.names)
	mac.Write([]byte(key))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// close gives the bytes of an entry, and of what it was seen under, for a name.
func (s *seal) close(e *Entry, under *sight, name string) ([]byte, error) {
	size := len(e.Result.Fields) + len(e.Result.Meta) + len(e.Key) + len(e.Target) + len(under.run) + 20*len(under.versions)
	data := make([]byte, 0, size+200)
	if s.values == nil {
		data = append(data, plainForm, 0, 0, 0, 0, 0, 0, 0, 0)
	} else {
		data = append(data, sealedForm)
		data = data[:1+saltBytes]
		_, _ = rand.Read(data[1:]) // never fails
	}
	begin := len(data)
	data = appendEntry(data, e, under)
	if s.values == nil {
		binary.LittleEndian.PutUint64(data[1:], xxh3.HashSeed(data[begin:], xxh3.HashString(name)))
		return data, nil
	}
	aead, err := s.aead(data[1:begin])
	if err != nil {
		return nil, err
	}
	return aead.Seal(data[:begin], make([]byte, aead.NonceSize()), data[begin:], []byte(name)), nil
}

// aead gives the cipher of one entry. Its key is used once, so the nonce is always the same.
func (s *seal) aead(salt []byte) (cipher.AEAD, error) {
	mac := hmac.New(sha256.New, s.values)
	mac.Write(salt)
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// open reads what close gave under the same name. It is false for anything else, whoever wrote it.
func (s *seal) open(data []byte, name string) (*Entry, *sight, bool) {
	switch {
	case s.values == nil && len(data) > 1+sumBytes && data[0] == plainForm:
		body := data[1+sumBytes:]
		if binary.LittleEndian.Uint64(data[1:]) != xxh3.HashSeed(body, xxh3.HashString(name)) {
			return nil, nil, false
		}
		return parseEntry(body)
	case s.values != nil && len(data) > 1+saltBytes && data[0] == sealedForm:
		aead, err := s.aead(data[1 : 1+saltBytes])
		if err != nil {
			return nil, nil, false
		}
		body, err := aead.Open(nil, make([]byte, aead.NonceSize()), data[1+saltBytes:], []byte(name))
		if err != nil {
			return nil, nil, false
		}
		return parseEntry(body)
	}
	return nil, nil, false
}

// appendEntry writes an entry: numbers as varints, texts with their length in front. Its form is plainForm's and sealedForm's.
func appendEntry(b []byte, e *Entry, under *sight) []byte {
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	number := func(n int64) { b = binary.AppendVarint(b, n) }
	r := &e.Result
	text(under.run)
	number(int64(len(under.versions)))
	for _, v := range under.versions {
		number(int64(v[0]))
		number(int64(v[1]))
	}
	text(e.Key)
	text(e.Target)
	for _, n := range []int64{int64(e.Args), int64(r.Rows), e.Born.UnixNano(), int64(e.TTL), int64(e.Cost), int64(e.StaleRevalidate), int64(e.StaleError)} {
		number(n)
	}
	if r.Hints != nil {
		number(1)
		number(int64(r.Hints.TTL))
		number(int64(r.Hints.Scope))
	} else {
		number(0)
	}
	text(string(r.Meta))
	text(string(r.Fields))
	return b
}

// parseEntry reads what appendEntry wrote. The entry's result keeps b.
func parseEntry(b []byte) (*Entry, *sight, bool) {
	ok := true
	number := func() int64 {
		n, size := binary.Varint(b)
		if size <= 0 {
			ok = false
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() []byte {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			ok = false
			return nil
		}
		out := b[size : size+int(n) : size+int(n)]
		b = b[size+int(n):]
		return out
	}
	e, under := &Entry{}, &sight{run: string(text())}
	for n := number(); n > 0 && ok; n-- {
		under.versions = append(under.versions, [2]uint64{uint64(number()), uint64(number())})
	}
	r := &e.Result
	e.Key, e.Target = string(text()), string(text())
	e.Args, r.Rows, e.Born = int(number()), mcp.Rows(number()), time.Unix(0, number())
	e.TTL, e.Cost, e.StaleRevalidate, e.StaleError = time.Duration(number()), time.Duration(number()), time.Duration(number()), time.Duration(number())
	if number() != 0 {
		r.Hints = &mcp.Hints{TTL: time.Duration(number()), Scope: mcp.Scope(number())}
	}
	if r.Meta = text(); len(r.Meta) == 0 {
		r.Meta = nil
	}
	r.Fields = text()
	return e, under, ok && len(b) == 0 && e.Args >= 0 && e.Args <= len(e.Key)
}
