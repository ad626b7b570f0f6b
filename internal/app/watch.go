package app

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watcher sees changes of the files that the configuration is read from. It watches directories, since editors and
// ConfigMaps put another file or link in the place of the old one.
type watcher struct {
	w   *fsnotify.Watcher
	log *slog.Logger

	mu   sync.Mutex      // guards at
	at   map[string]bool // the paths whose change matters: the files, and the links on the way to them
	dirs map[string]bool // those watched; only follow uses it
}

func newWatcher(log *slog.Logger) (*watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch the configuration: %w; raise fs.inotify.max_user_instances", err)
	}
	return &watcher{w: w, log: log, dirs: map[string]bool{}}, nil
}

// follow watches these files and no others from now on. It is called before they are read, so that no change is missed,
// and again at each reload, since a link may lead elsewhere by then. Calls must not overlap. A nil watcher does nothing.
func (w *watcher) follow(files ...string) {
	if w == nil {
		return
	}
	at, dirs := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		if file == "" {
			continue
		}
		err := walk(file, func(path string) error {
			at[path] = true
			dir := filepath.Dir(path)
			if dirs[dir] {
				return nil
			}
			dirs[dir] = true
			return w.w.Add(dir) // also where it is watched: another directory may have taken its place
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // who reads it tells that it is not there
			w.log.Warn("changes of a file are not noticed: send SIGHUP after each", "file", file, "error", err)
		}
	}
	for dir := range w.dirs {
		if !dirs[dir] {
			w.w.Remove(dir) //nolint:errcheck // it may be gone
		}
	}
	w.dirs = dirs
	w.mu.Lock()
	w.at = at
	w.mu.Unlock()
}

// walk calls visit with each path at which a change can make another file of what the name stands for: every symbolic
// link on the way, and the file; or else the first part that does not exist. It visits before it looks. No directory in
// these paths is a link.
func walk(name string, visit func(path string) error) error {
	name, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	const separator = string(filepath.Separator)
	at, rest := separator, strings.TrimPrefix(name, separator)
	for links := 0; rest != ""; {
		part, after, _ := strings.Cut(rest, separator)
		next := filepath.Join(at, part)
		info, err := os.Lstat(next)
		if err == nil && info.IsDir() {
			at, rest = next, after
			continue
		}
		if verr := visit(next); verr != nil {
			return verr
		}
		// Watched from here on: what is read now is no older than what is told of.
		target, err := os.Readlink(next)
		switch {
		case err != nil:
			return nil // the file, or nothing
		case links == 40: // as many as Linux follows
			return fmt.Errorf("%s: too many symbolic links", name)
		}
		links++
		if filepath.IsAbs(target) {
			at = separator
		}
		rest = strings.TrimPrefix(filepath.Join(target, after), separator)
	}
	return nil
}

// concerns tells whether a change at this path is one of the files'. A database in the same directory is never quiet.
func (w *watcher) concerns(path string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[path]
}

// settle is how long a file must be quiet before it is read: editors write in several steps.
const settle = 100 * time.Millisecond

// patience is how long a file is waited for that does not become quiet.
const patience = time.Second

// run calls changed after the files have changed, until stop is closed.
func (w *watcher) run(stop <-chan struct{}, changed func()) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	var first time.Time // of the changes that changed has not heard of
	soon := func() {
		if first.IsZero() {
			first = time.Now()
		}
		timer.Reset(max(0, min(settle, patience-time.Since(first))))
	}
	for {
		select {
		case <-stop:
			return
		case event, ok := <-w.w.Events:
			if !ok {
				return
			}
			if w.concerns(event.Name) {
				soon()
			}
		case err, ok := <-w.w.Errors:
			if !ok {
				return
			}
			w.log.Warn("watching the configuration failed", "error", err)
			soon() // what was lost may have been a change
		case <-timer.C:
			first = time.Time{}
			changed()
		}
	}
}
