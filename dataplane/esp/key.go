package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Secret is the key of a key file: 256 random bits.
type Secret [32]byte

// KID is the public name that a secret has for a vnet.
func (s Secret) KID(id vnet.ID) wire.KID { return newVnetKey(s, id).kid }

// hkdfSalt separates what we derive from other uses of a secret.
const hkdfSalt = "xend vnet security 1"

// vnetKey is a secret in a vnet: the source of sender keys.
type vnetKey struct {
	secret Secret
	id     vnet.ID
	prk    []byte
	kid    wire.KID
	mac    []byte
}

func newVnetKey(s Secret, id vnet.ID) *vnetKey {
	k := &vnetKey{secret: s, id: id}
	var err error
	if k.prk, err = hkdf.Extract(sha256.New, s[:], []byte(hkdfSalt)); err != nil {
		panic(err) // only for a secret that FIPS 140 refuses, being too short
	}
	copy(k.kid[:], k.expand("kid"+string(id[:]), len(k.kid)))
	k.mac = k.expand("mac"+string(id[:]), sha256.Size)
	return k
}

// expand is HKDF-Expand (RFC 5869) with SHA-256.
func (k *vnetKey) expand(info string, n int) []byte {
	out, err := hkdf.Expand(sha256.New, k.prk, info, n)
	if err != nil {
		panic(err) // only for more than 255 blocks
	}
	return out
}

// sign appends the MAC of the message that b holds from at on.
func (k *vnetKey) sign(b []byte, at int) []byte {
	h := hmac.New(sha256.New, k.mac)
	h.Write(b[at:])
	var sum [sha256.Size]byte
	return append(b, h.Sum(sum[:0])[:wire.MessageICV]...)
}

// verify reports whether the MAC at the end of a message is right.
func (k *vnetKey) verify(b []byte) bool {
	h := hmac.New(sha256.New, k.mac)
	h.Write(b[:len(b)-wire.MessageICV])
	var sum [sha256.Size]byte
	return subtle.ConstantTimeCompare(h.Sum(sum[:0])[:wire.MessageICV], b[len(b)-wire.MessageICV:]) == 1
}

// laneKey is what the packets of one lane are protected with.
type laneKey struct {
	aead cipher.AEAD
	salt [4]byte
}

// lane derives the key of a lane of the SA (k, nonce, epoch, level). Everything that makes two SAs differ is of fixed length, so that
// no two give the same input.
func (k *vnetKey) lane(nonce [16]byte, epoch uint32, level, lane uint8) laneKey {
	info := make([]byte, 0, 3+16+16+4+2)
	info = append(info, "esp"...)
	info = append(info, k.id[:]...)
	info = append(info, nonce[:]...)
	info = binary.BigEndian.AppendUint32(info, epoch)
	info = append(info, level, lane)
	out := k.expand(string(info), 36)
	block, err := aes.NewCipher(out[:32])
	if err != nil {
		panic(err) // the length is right
	}
	l := laneKey{salt: [4]byte(out[32:])}
	if l.aead, err = cipher.NewGCM(block); err != nil {
		panic(err)
	}
	return l
}
