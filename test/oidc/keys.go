package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"

	"github.com/go-jose/go-jose/v3"
)

// keys are the signing keys, the newest last.
type keys struct {
	algorithm string

	mu    sync.Mutex
	made  int                // mu
	valid []*jose.JSONWebKey // mu
}

// rotate makes the key that signs from now on.
func (k *keys) rotate(drop bool) error {
	key := &jose.JSONWebKey{Algorithm: k.algorithm, Use: "sig"}
	var err error
	switch k.algorithm {
	case "ES256":
		key.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		key.Key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("making a key: algorithm %q", k.algorithm)
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made++
	key.KeyID = fmt.Sprintf("key-%d", k.made)
	if drop {
		k.valid = nil
	}
	k.valid = append(k.valid, key)
	return nil
}

func (k *keys) signing(context.Context) (any, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.valid[len(k.valid)-1], nil
}

func (k *keys) published() jose.JSONWebKeySet {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out jose.JSONWebKeySet
	for _, key := range k.valid {
		out.Keys = append(out.Keys, key.Public())
	}
	return out
}
