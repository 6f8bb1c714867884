package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
)

func binaryUint64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// laneInfo is the info of a lane's key, written down once more.
func laneInfo(k *vnetKey, nonce []byte, epoch uint32, level, lane uint8) []byte {
	info := append([]byte("esp"), k.id[:]...)
	info = append(info, nonce...)
	info = binary.BigEndian.AppendUint32(info, epoch)
	return append(info, level, lane)
}

func laneKeyOf(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func binaryUint32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
