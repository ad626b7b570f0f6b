package app

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"

	"millrace/internal/admin"
	"millrace/internal/conf"
	"millrace/internal/config"
	"millrace/internal/front"
	"millrace/internal/identity"
)

// faultAt is err with the place of the key that it is about.
func faultAt(loaded *config.Loaded, path string, err error, fix string) conf.Faults {
	return loaded.Locate(conf.Faults{{Path: path, Message: err.Error(), Fix: fix}})
}

// keyring reads the API keys, with the place of what is wrong with them.
func keyring(loaded *config.Loaded) (*identity.Keyring, error) {
	keys, err := identity.New(loaded.Auth)
	if err != nil {
		return nil, located(loaded, err)
	}
	return keys, nil
}

// stateKey reads the key that signs requestState, or makes one for the life of this process.
func stateKey(loaded *config.Loaded) ([]byte, error) {
	file := loaded.Auth.StateKeyFile
	if file == "" {
		key := make([]byte, 32)
		rand.Read(key) //nolint:errcheck // never fails
		return key, nil
	}
	return keyFile(loaded, "auth.state_key_file", file)
}

// cacheKey reads the key that encrypts what is kept in Redis; nil for no encryption.
func cacheKey(loaded *config.Loaded) ([]byte, error) {
	if loaded.Cache.L2.KeyFile == "" {
		return nil, nil
	}
	return keyFile(loaded, "cache.l2.key_file", loaded.Cache.L2.KeyFile)
}

// keyFile reads the key in a file that the key at path names.
func keyFile(loaded *config.Loaded, path, file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if err == nil && len(key) < 32 {
		err = fmt.Errorf("%s has %d bytes, which others could guess", file, len(key))
	}
	if err != nil {
		return nil, faultAt(loaded, path, err, "name a file with at least 32 random bytes: head -c 32 /dev/urandom > FILE")
	}
	return key, nil
}

// located adds line and column to an error that is faults.
func located(loaded *config.Loaded, err error) error {
	var faults conf.Faults
	if errors.As(err, &faults) {
		return loaded.Locate(faults)
	}
	return err
}

// adminToken looks whether the admin listener will let anybody in. It is no reason not to serve: the file is read again
// at each request.
func adminToken(loaded *config.Loaded) conf.Faults {
	if file := loaded.Admin.TokenFile; file != "" {
		if _, err := admin.ReadToken(file); err != nil {
			return faultAt(loaded, "admin.token_file", err, "write a long random token into it; until then the admin listener lets nobody in")
		}
	}
	return nil
}

// listenFault says of a listener that did not open which key or flag is behind it, and what to do. flag is "" where
// none stands in for the key; given is the flag's value.
func listenFault(loaded *config.Loaded, key, flag, given, address string, err error) error {
	var network *net.OpError
	if !errors.As(err, &network) {
		return faultAt(loaded, "listen.tls", err, "name a certificate and its key, both as PEM files that this user may read")
	}
	elsewhere := "give another address"
	if flag != "" {
		elsewhere += " with " + flag
	}
	message, fix := fmt.Errorf("cannot listen on %s: %w", address, network.Err), elsewhere+": one of this machine, with a port that this user may take"
	if errors.Is(err, syscall.EADDRINUSE) {
		fix = "see which program has the port (ss -ltnp) and stop it, or " + elsewhere
	}
	if given != "" {
		return fmt.Errorf("%s %s: %w; %s", flag, given, message, fix)
	}
	return faultAt(loaded, key, message, fix)
}

// fileFaults opens the files that the configuration names, as New does.
func fileFaults(loaded *config.Loaded) conf.Faults {
	faults := adminToken(loaded)
	add := func(err error) {
		var more conf.Faults
		if errors.As(err, &more) {
			faults = append(faults, more...)
		}
	}
	_, err := keyring(loaded)
	add(err)
	_, err = stateKey(loaded)
	add(err)
	_, err = cacheKey(loaded)
	add(err)
	add(located(loaded, loaded.Redis.CheckFiles()))
	if tls := loaded.Listen.TLS; tls.Enabled() && tls.KeyFile != "" {
		// The listener loads the files before it opens a port; one that nobody knows is as good as the real one, which
		// a running server may hold.
		cfg := loaded.Listen
		cfg.Address = "127.0.0.1:0"
		l, err := front.Listen(cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			l.Close()
		} else if network := (*net.OpError)(nil); !errors.As(err, &network) {
			add(listenFault(loaded, "listen.address", "", "", cfg.Address, err))
		}
	}
	return faults
}
