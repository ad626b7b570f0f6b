package front

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"millrace/internal/mcp"
)

// stateLife is how long the user may take to answer a modern call.
const stateLife = 15 * time.Minute

// sealer makes and checks requestState: what a modern client carries from a question to its answer. It is the client's
// to forge, so it is an HMAC over all that it must not be moved between: the caller, the tool with its version and the
// arguments (all three are in the call's key), what was asked (the handler's state), and when it expires.
type sealer struct{ key []byte }

const macSize = sha256.Size

func (s sealer) mac(call *mcp.Call, payload []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write(call.Caller.ScopeKey(mcp.ScopePrivate))
	h.Write(call.Key())
	h.Write(payload)
	return h.Sum(nil)
}

// seal gives the text for requestState: base64url of expiry, state and MAC.
func (s sealer) seal(call *mcp.Call, state []byte, now time.Time) string {
	payload := binary.BigEndian.AppendUint64(nil, uint64(now.Add(stateLife).Unix()))
	payload = append(payload, state...)
	return base64.RawURLEncoding.EncodeToString(append(payload, s.mac(call, payload)...))
}

// open gives the state of a requestState that was made for this very call and has not expired.
func (s sealer) open(call *mcp.Call, sealed []byte, now time.Time) ([]byte, bool) {
	raw := make([]byte, base64.RawURLEncoding.DecodedLen(len(sealed)))
	n, err := base64.RawURLEncoding.Strict().Decode(raw, sealed)
	if err != nil || n < 8+macSize {
		return nil, false
	}
	payload, mac := raw[:n-macSize], raw[n-macSize:n]
	if !hmac.Equal(mac, s.mac(call, payload)) {
		return nil, false
	}
	return payload[8:], now.Unix() <= int64(binary.BigEndian.Uint64(payload))
}

// takeAnswer reads a modern retry's requestState and inputResponses into the call.
func (c *Core) takeAnswer(x *exchange) *mcp.Error {
	if x.req.RequestState == nil {
		// Responses without a state answer nothing: the call starts anew. Nor may it be answered from a cache, or fill one.
		x.call.NoStore = x.call.NoStore || x.req.InputResponses != nil
		return nil
	}
	state, ok := c.seal.open(&x.call, x.req.RequestState, time.Now())
	if !ok {
		return mcp.Errorf(mcp.CodeInvalidParams, "requestState is not of this call by this caller, or has expired: call again without it")
	}
	x.call.Answer = &mcp.Answer{State: state, Responses: map[string][]byte{}}
	mcp.Members(x.req.InputResponses, func(key, value []byte) bool {
		x.call.Answer.Responses[string(key)] = value
		return true
	})
	return nil
}

// appendInput writes the questions of an input_required result.
func (x *exchange) appendInput(dst []byte, in *mcp.InputRequired) []byte {
	dst = append(dst, `,"inputRequests":{`...)
	for i, q := range in.Requests {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = mcp.AppendText(append(mcp.AppendText(dst, q.Key), `:{"method":`...), q.Method)
		dst = append(append(append(dst, `,"params":`...), q.Params...), '}')
	}
	dst = append(dst, `},"requestState":`...)
	return mcp.AppendText(dst, x.core.seal.seal(&x.call, in.State, time.Now()))
}
