package cache

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// Tags of a file and of rows share so many versions; what whole targets rest on, and all results, have others beside them, or a
// write to one row would now and then make everything void.
const (
	tagStripes    = 1 << 16
	targetStripes = 1 << 10
	stripes       = tagStripes + targetStripes
)

// everything is the tag of all results. No tag as a file has it begins with its first byte, or that of targetTag.
const everything = "\x00"

const targetPrefix = "\x00target\x00"

// targetTag is the tag of all results of a target.
func targetTag(target string) string { return targetPrefix + target }

// Tags is what makes an invalidation certain. Each tag has a version; what changes what a tag stands for raises it, before
// the change and after it. A result carries the versions of its tags from before the work that made it began, and is served
// only while they are the current ones. So however reads, writes and fills fall between each other, what was read before a
// change is never served after it: there is nothing to be removed in time, and a fill that a change overtook is void by
// itself.
//
// Tags share the versions by their hash. Two that share one are invalidated together, which costs a fill and is never
// wrong; the memory is the same however many tags there are. Its methods are safe for concurrent use, lock nothing, and
// belong to the process: a reload must not forget a version.
type Tags struct {
	stripes [stripes + 1]stripe // the last is sharedTag's
	debts   debts
}

// debts are stripes whose versions Redis has not been told of yet. It is not read while there are any, by any generation of the file.
type debts struct {
	due    atomic.Bool // there are some
	paying sync.Mutex  // is held while some are being told
	mu     sync.Mutex  // guards stripes
	owed   map[uint32]struct{}
}

func (d *debts) owe(stripes []uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owed == nil {
		d.owed = map[uint32]struct{}{}
	}
	for _, s := range stripes {
		d.owed[s] = struct{}{}
	}
	d.due.Store(true)
}

// pay tells all that is owed, until tell has an error.
func (d *debts) pay(tell func(stripes []uint32) error) {
	d.paying.Lock()
	defer d.paying.Unlock()
	d.mu.Lock()
	owed := slices.Collect(maps.Keys(d.owed))
	clear(d.owed)
	d.mu.Unlock()
	for batch := range slices.Chunk(owed, 1000) {
		if tell(batch) != nil {
			d.owe(owed)
			break
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due.Store(len(d.owed) > 0)
}

// stripe is what tags of one hash have in common.
type stripe struct {
	version atomic.Uint64
	remote  atomic.Uint32 // of changes that other processes announced
	writes  atomic.Int32  // under way in this process, or not settled
}

// sharedTag is the tag of all results that other processes may make void. It is of this process, and no level keeps it.
const sharedTag = stripes

// sharedName is its name.
const sharedName = "\x00shared"

// NewTags makes the versions of a process.
func NewTags() *Tags { return new(Tags) }

// stamp is a tag's version at one moment.
type stamp struct {
	stripe  uint32
	remote  uint32
	version uint64
}

// stamp gives a stripe's state now.
func (t *Tags) stamp(stripe uint32) stamp {
	s := &t.stripes[stripe]
	return stamp{stripe, s.remote.Load(), s.version.Load()}
}

// hear makes void what rests on a stripe: another process has changed something, or may have.
func (t *Tags) hear(stripe uint32) { t.stripes[stripe].remote.Add(1) }

// stripe gives the version that a tag has. It is the same in every process, since a level that outlives one keeps it.
func (t *Tags) stripe(tag string) uint32 {
	switch hash := xxh3.HashString(tag); {
	case tag == everything:
		return tagStripes
	case tag == sharedName:
		return sharedTag
	case strings.HasPrefix(tag, targetPrefix):
		return tagStripes + 1 + uint32(hash%(targetStripes-1))
	default:
		return uint32(hash % tagStripes)
	}
}

// heard gives, by stripe, what other processes have announced.
func (t *Tags) heard() []uint32 {
	out := make([]uint32, len(t.stripes))
	for i := range out {
		out[i] = t.stripes[i].remote.Load()
	}
	return out
}

// learn takes over a version that another process, or this one in another life, has raised a stripe to.
func (t *Tags) learn(stripe uint32, version uint64) {
	for {
		own := t.stripes[stripe].version.Load()
		if own >= version || t.stripes[stripe].version.CompareAndSwap(own, version) {
			return
		}
	}
}

// busy tells whether a write of this process to what was stamped is under way, or not settled.
func (t *Tags) busy(stamps []stamp) bool {
	for _, s := range stamps {
		if t.stripes[s.stripe].writes.Load() > 0 {
			return true
		}
	}
	return false
}

// stamps gives the versions of tags now: before the work whose result will carry them.
func (t *Tags) stamps(tags []string) []stamp {
	out := make([]stamp, len(tags))
	for i, tag := range tags {
		out[i] = t.stamp(t.stripe(tag))
	}
	return out
}

// current tells whether nothing that was stamped has changed since.
func (t *Tags) current(stamps []stamp) bool {
	for _, s := range stamps {
		if t.stamp(s.stripe) != s {
			return false
		}
	}
	return true
}

// latest tells whether the versions of stamps are the present ones, whatever other processes announced: it is for levels
// that those tell by themselves.
func (t *Tags) latest(stamps []stamp) bool {
	for _, s := range stamps {
		if t.stripes[s.stripe].version.Load() != s.version {
			return false
		}
	}
	return true
}

// change is a write under way to what some tags stand for.
type change struct {
	tags   *Tags
	marks  []stamp // the versions that it raised its tags to, each stripe once
	shared bool    // another was under way when it began
}

// begin makes every result of the tags void, before the write that changes what they stand for.
func (t *Tags) begin(tags []string) change {
	c := change{tags: t, marks: make([]stamp, 0, len(tags))}
	for _, tag := range tags {
		s := t.stripe(tag)
		if c.mark(s) == nil {
			own := &t.stripes[s]
			c.shared = own.writes.Add(1) > 1 || c.shared
			c.marks = append(c.marks, stamp{s, own.remote.Load(), own.version.Add(1)})
		}
	}
	return c
}

func (c *change) mark(stripe uint32) *stamp {
	for i := range c.marks {
		if c.marks[i].stripe == stripe {
			return &c.marks[i]
		}
	}
	return nil
}

// end makes void what was read while the write was under way; settle must follow. It tells whether the write was alone: no other change of any
// of the tags was under way, began or ended since begin. Only then is the write's own result the last word on them, for as long as the
// versions are those that end leaves in the marks.
func (c *change) end() (alone bool) {
	alone = !c.shared
	for i := range c.marks {
		m := &c.marks[i]
		own := &c.tags.stripes[m.stripe]
		if own.version.CompareAndSwap(m.version, m.version+1) {
			m.version++
		} else { // what is told to other levels is the version that there is now
			m.version, alone = own.version.Add(1), false
		}
		alone = alone && own.remote.Load() == m.remote
	}
	return alone
}

// settle says that the levels that outlive the process know of the end too, or are not read until they do. Until then a version may be one
// that another process has raised it to as well, for another reason: what is read meanwhile is not told by it from what was read before.
func (c *change) settle() {
	for i := range c.marks {
		c.tags.stripes[c.marks[i].stripe].writes.Add(-1)
	}
}

// restamp gives the versions under which what the write returned may be kept: those of its own tags as it left them, of
// others as they were before it.
func (c *change) restamp(before []stamp) []stamp {
	out := append([]stamp(nil), before...)
	for i := range out {
		if m := c.mark(out[i].stripe); m != nil {
			out[i].version = m.version
		}
	}
	return out
}
