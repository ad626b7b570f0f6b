package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/zeebo/xxh3"
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

// header is what of an entry is not its texts.
type header struct {
	stored
	Run      string      `json:"u"`
	Versions [][2]uint64 `json:"v"`
}

// close gives the bytes of an entry under a name: lengths, header, fields, meta.
func (s *seal) close(e *Entry, seen *sight, name string) ([]byte, error) {
	h := header{stored: *e.stored(), Run: seen.run, Versions: seen.versions}
	fields, meta := h.Fields, h.Meta
	h.Fields, h.Meta, h.Stamps = "", "", nil
	head, err := json.Marshal(&h)
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, 1+saltBytes+2*binary.MaxVarintLen64+len(head)+len(fields)+len(meta)+32)
	if s.values == nil {
		data = append(data, plainForm, 0, 0, 0, 0, 0, 0, 0, 0)
	} else {
		data = append(data, sealedForm)
		data = data[:1+saltBytes]
		_, _ = rand.Read(data[1:]) // never fails
	}
	begin := len(data)
	data = binary.AppendUvarint(data, uint64(len(head)))
	data = binary.AppendUvarint(data, uint64(len(fields)))
	data = append(append(append(data, head...), fields...), meta...)
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
func (s *seal) open(data []byte, name string) (*header, bool) {
	switch {
	case s.values == nil && len(data) > 1+sumBytes && data[0] == plainForm:
		body := data[1+sumBytes:]
		if binary.LittleEndian.Uint64(data[1:]) != xxh3.HashSeed(body, xxh3.HashString(name)) {
			return nil, false
		}
		return parse(body)
	case s.values != nil && len(data) > 1+saltBytes && data[0] == sealedForm:
		aead, err := s.aead(data[1 : 1+saltBytes])
		if err != nil {
			return nil, false
		}
		body, err := aead.Open(nil, make([]byte, aead.NonceSize()), data[1+saltBytes:], []byte(name))
		if err != nil {
			return nil, false
		}
		return parse(body)
	}
	return nil, false
}

func parse(body []byte) (*header, bool) {
	head, n := binary.Uvarint(body)
	if n <= 0 {
		return nil, false
	}
	body = body[n:]
	fields, n := binary.Uvarint(body)
	if n <= 0 {
		return nil, false
	}
	body = body[n:]
	if size := uint64(len(body)); head > size || fields > size-head {
		return nil, false
	}
	var h header
	if json.Unmarshal(body[:head], &h) != nil || h.Args < 0 || h.Args > len(h.Key) {
		return nil, false
	}
	h.Fields, h.Meta = string(body[head:head+fields]), string(body[head+fields:])
	return &h, true
}
