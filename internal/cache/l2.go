package cache

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/valkey-io/valkey-go"

	"millrace/internal/redis"
)

// L2 is the level that processes share in Redis or Valkey. The versions of tags are there too: a write raises them before it
// begins and when it has ended, and an entry is served only while those it carries are the present ones, which come with
// it in one round trip. They are the server's time, so that one that was lost never comes back.
//
// A write is announced as it raises the versions, so that the other processes' L1 follow, and waits at its end until they
// have: see redis.Member. Where the servers do not answer, calls go on without them. A version that could not be raised closes
// the level for this process until it is.
type L2 struct {
	cfg    L2Config
	client *redis.Client
	member *redis.Member
	seal   *seal
	tags   *Tags
	log    *slog.Logger
	count  Counters
	worth  circuitbreaker.CircuitBreaker[any] // asking at all
	budget time.Duration                      // for a look
	flight time.Duration                      // how long the other processes leave a call to the one that flies

	queue  chan l2Put
	queued atomic.Int64 // bytes in it

	stop chan struct{}
	done sync.WaitGroup
}

// l2Put is an entry that is to be written.
type l2Put struct {
	key  string
	data []byte
	life time.Duration
	flew bool // whether the flight's lease goes with it
}

// Bounds of L2.
const (
	l2Budget = 10 * time.Millisecond // for a look, of which a caller waits for the answer
	l2Queue  = 1000                  // entries that wait to be written
	l2Waits  = 64 << 20              // of them, in bytes
	l2Batch  = 100                   // of them in one pipeline
	l2Time   = time.Second           // for a pipeline behind the answers
	l2Entry  = 1 << 20               // the largest entry
	l2Flight = time.Second           // of a flight's lease
	// l2Skew is how far this process's clock may be from the server's.
	l2Skew = time.Minute
)

func newL2(cfg L2Config, client *redis.Client, secret []byte, tags *Tags, count Counters, log *slog.Logger) (*L2, error) {
	s, err := newSeal(secret)
	if err != nil {
		return nil, err
	}
	l := &L2{cfg: cfg, client: client, seal: s, tags: tags, log: log, count: count, budget: l2Budget, flight: l2Flight, queue: make(chan l2Put, l2Queue), stop: make(chan struct{})}
	slow := false // the breaker tells of its states one after the other
	l.worth = newBreaker(func(state circuitbreaker.State) {
		switch {
		case state == circuitbreaker.OpenState && !slow:
			slow = true
			log.Warn("Redis is slow or gone: results come from the other levels and the tools until it answers in time again")
		case state == circuitbreaker.ClosedState && slow:
			slow = false
			log.Info("Redis answers in time again")
		}
	})
	l.member = client.Join("cache", l)
	l.done.Go(l.write)
	return l, nil
}

// newBreaker makes what says whether a level is worth asking: not for a second after half of the looks of a second failed, of twenty
// at least. told, where it is not nil, hears of each change.
func newBreaker(told func(circuitbreaker.State)) circuitbreaker.CircuitBreaker[any] {
	b := circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(0.5, 20, time.Second).WithDelay(time.Second).WithSuccessThreshold(3)
	if told != nil {
		b.OnStateChanged(func(e circuitbreaker.StateChangedEvent) { told(e.NewState) })
	}
	return b.Build()
}

func (l *L2) close() {
	close(l.stop)
	l.done.Wait()
	l.member.Close()
}

// Announced makes void what another process changed: numbers of stripes.
func (l *L2) Announced(payload string) {
	for text := range strings.SplitSeq(payload, ",") {
		s, err := strconv.ParseUint(text, 10, 32)
		if err != nil || s >= stripes {
			l.Missed()
			return
		}
		l.tags.hear(uint32(s))
		if s == uint64(l.tags.stripe(everything)) {
			l.Missed()
		}
	}
}

// Missed makes void what others may have changed unheard.
func (l *L2) Missed() { l.tags.hear(sharedTag) }

// Owes implements redis.Listener.
func (l *L2) Owes() bool { return l.tags.debts.due.Load() }

// Pay raises the versions that are owed.
func (l *L2) Pay() {
	l.tags.debts.pay(func(stripes []uint32) error {
		_, err := l.announce(stripes, noWrite, 0)
		return err
	})
}

// sight is what the level says of a call's tags at one moment: what a result of work that begins later may be kept under.
type sight struct {
	run      string // the server's life
	versions [][2]uint64
	writing  bool // a write may be under way somewhere
}

func (l *L2) versionKey(stripe uint32) string {
	return l.client.SharedKey("v:" + strconv.FormatUint(uint64(stripe), 10))
}

// asked gives the keys of the versions of tags, behind that of the server's life, and their stripes.
func (l *L2) asked(tags []string) (keys []string, asked []uint32) {
	keys = append(make([]string, 0, len(tags)+1), l.member.RunKey())
	for _, t := range tags {
		if s := l.tags.stripe(t); s != sharedTag {
			keys, asked = append(keys, l.versionKey(s)), append(asked, s)
		}
	}
	return keys, asked
}

// open tells whether the level may be asked: the process knows what others announce, and owes nothing.
func (l *L2) open() bool { return l.member.Holds(time.Now()) && !l.Owes() }

// look gives the fresh entry of a key, nil where there is none, and what the level says of tags; a nil sight where it says
// nothing.
func (l *L2) look(ctx context.Context, key string, tags []string) (*Entry, *sight) {
	e, s, _ := l.lookFor(ctx, key, tags, false)
	return e, s
}

// lookFor looks, and before that asks for the lease of the key's flight where that is wanted.
func (l *L2) lookFor(ctx context.Context, key string, tags []string, lease bool) (e *Entry, s *sight, leased bool) {
	if !l.open() || !l.worth.TryAcquirePermit() {
		return nil, nil, false
	}
	within, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	began := time.Now()
	e, s, leased, err := l.ask(within, key, tags, lease)
	l.count.Looked(time.Since(began))
	switch {
	case err == nil:
		l.worth.RecordSuccess()
		return e, s, leased
	case ctx.Err() == nil:
		if lease {
			l.land(key) // it may have been given, though that was not heard
		}
		l.worth.RecordFailure()
		l.count.Count(Failed)
	default: // it is the caller whose time is over
		l.worth.RecordSuccess()
	}
	return nil, nil, false
}

func (l *L2) ask(ctx context.Context, key string, tags []string, lease bool) (e *Entry, s *sight, leased bool, err error) {
	conn, err := l.client.Conn()
	if err != nil {
		return nil, nil, false, err
	}
	name := l.entryKey(key)
	keys, asked := l.asked(tags)
	inCluster := conn.Mode() == valkey.ClientModeCluster // where an entry and the versions are on servers of their own
	commands := make([]valkey.Completed, 0, 3)
	if lease {
		commands = append(commands, conn.B().Set().Key(l.flightKey(key)).Value("1").Nx().PxMilliseconds(l.flight.Milliseconds()).Build())
	}
	if inCluster {
		commands = append(commands, conn.B().Mget().Key(keys...).Build(), conn.B().Get().Key(name).Build())
	} else {
		commands = append(commands, conn.B().Mget().Key(keys...).Key(name).Build())
	}
	got := conn.DoMulti(ctx, commands...)
	if lease {
		if err := got[0].Error(); err == nil {
			leased = true
		} else if !valkey.IsValkeyNil(err) {
			return nil, nil, false, err
		}
		got = got[1:]
	}
	texts, err := got[0].ToArray()
	if err != nil {
		return nil, nil, leased, err
	}
	var data string
	if inCluster {
		data, err = got[1].ToString()
	} else if len(texts) == len(keys)+1 {
		data, err = texts[len(keys)].ToString()
		texts = texts[:len(keys)]
	}
	if err != nil && !valkey.IsValkeyNil(err) {
		return nil, nil, leased, err
	}
	if s, err = l.sight(ctx, conn, texts, asked); err != nil {
		return nil, nil, leased, err
	}
	if data != "" {
		e = l.read([]byte(data), key, name, s)
	}
	return e, s, leased, nil
}

// see gives what the level says of tags, nil where it says nothing.
func (l *L2) see(ctx context.Context, tags []string) *sight {
	conn, err := l.client.Conn()
	if err != nil || !l.open() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.budget)
	defer cancel()
	keys, asked := l.asked(tags)
	got, err := conn.Do(ctx, conn.B().Mget().Key(keys...).Build()).ToArray()
	var s *sight
	if err == nil {
		s, err = l.sight(ctx, conn, got, asked)
	}
	if err != nil {
		l.count.Count(Failed)
		return nil
	}
	return s
}

// sight takes what MGET gave. Versions that are not there are made.
func (l *L2) sight(ctx context.Context, conn valkey.Client, got []valkey.ValkeyMessage, asked []uint32) (*sight, error) {
	texts, err := textsOf(got, len(asked)+1)
	if err != nil {
		return nil, err
	}
	if slices.Contains(texts[1:], "") {
		keys := []string{l.member.RunKey()}
		for _, s := range asked {
			keys = append(keys, l.versionKey(s))
		}
		got, err := beginVersions.Exec(ctx, conn, keys, nil).ToArray()
		if err == nil {
			texts, err = textsOf(got, len(asked)+1)
		}
		if err != nil {
			return nil, err
		}
	}
	s := &sight{run: texts[0]}
	now := time.Now().Add(-l2Skew).UnixMicro()
	for i, text := range texts[1:] {
		version, rest, _ := strings.Cut(text, ":")
		writes, until, _ := strings.Cut(rest, ":")
		v, err := strconv.ParseUint(version, 10, 63)
		n, err2 := strconv.ParseInt(writes, 10, 64)
		u, err3 := strconv.ParseInt(until, 10, 64)
		if err := errors.Join(err, err2, err3); err != nil {
			return nil, err
		}
		s.versions = append(s.versions, [2]uint64{uint64(asked[i]), v})
		s.writing = s.writing || n > 0 && u > now
	}
	return s, nil
}

// textsOf gives n values, "" for those that are not there.
func textsOf(list []valkey.ValkeyMessage, n int) (out []string, err error) {
	if len(list) != n {
		return nil, errors.New("there came another number of values from Redis than were asked for")
	}
	out = make([]string, n)
	for i := range list {
		if out[i], err = list[i].ToString(); err != nil && !valkey.IsValkeyNil(err) {
			return nil, err
		}
	}
	return out, nil
}

// read takes an entry out of what was kept; nil where it is none, or void, or over.
func (l *L2) read(data []byte, key, name string, s *sight) *Entry {
	e, under, ok := l.seal.open(data, name)
	if !ok || under.run != s.run || under.run == "" || e.Key != key || !s.has(under.versions) {
		return nil
	}
	if age := time.Since(e.Born); age < 0 || age >= min(e.TTL, l.cfg.TTL.Std()) {
		return nil
	}
	return e
}

// entryKey is where the entry of a call's key is: nobody learns the call from it.
func (l *L2) entryKey(key string) string { return l.client.Key("e:" + l.seal.name(key)) }

func (l *L2) flightKey(key string) string { return l.client.Key("f:" + l.seal.name(key)) }

// fly asks for the lease of a key's flight: one process does the work, the others wait a little for what it brings. It
// gives the entry where there is one by now that was born after older, and what look gives; flew tells whether the caller has the
// lease, which keep or land give back. A nil sight says that nothing is known: the caller does the work.
func (l *L2) fly(ctx context.Context, key string, tags []string, older time.Time) (e *Entry, s *sight, flew bool) {
	over := time.NewTimer(l.flight)
	defer over.Stop()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if e, s, flew = l.lookFor(ctx, key, tags, true); s == nil {
			return nil, nil, flew
		}
		if e != nil && e.Born.After(older) {
			if flew {
				l.land(key)
			}
			return e, s, false
		}
		if flew {
			return nil, s, true
		}
		select {
		case <-time.After(pause):
		case <-over.C:
			return nil, s, false
		case <-ctx.Done():
			return nil, s, false
		case <-l.stop:
			return nil, s, false
		}
	}
}

// lead tells whether this is, of all processes, the one that fetches hot results anew in an interval; without Redis each does it for itself.
func (l *L2) lead(interval time.Duration) bool {
	conn, err := l.client.Conn()
	if err != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), l2Time)
	defer cancel()
	// It ends a little before the next interval begins, so that somebody leads in each.
	err = conn.Do(ctx, conn.B().Set().Key(l.client.Key("tends")).Value("1").Nx().PxMilliseconds(max(1, (interval*9/10).Milliseconds())).Build()).Error()
	return err == nil || !valkey.IsValkeyNil(err)
}

// land gives the lease of a flight back that brought nothing to keep.
func (l *L2) land(key string) {
	l.put(l2Put{key: l.flightKey(key)})
}

// keep queues an entry to be written, under what was seen before its work.
func (l *L2) keep(e *Entry, s *sight, flew bool) {
	life := min(e.TTL, l.cfg.TTL.Std()) - time.Since(e.Born)
	if s == nil || s.run == "" || e.Err != nil || e.Bytes() > l2Entry || life < time.Millisecond || !l.open() {
		if flew {
			l.land(e.Key)
		}
		return
	}
	data, err := l.seal.close(e, s, l.entryKey(e.Key))
	if err != nil {
		l.count.Count(Failed)
		return
	}
	l.put(l2Put{key: e.Key, data: data, life: life, flew: flew})
}

func (l *L2) put(p l2Put) {
	if n := int64(len(p.data)); l.queued.Add(n) <= l2Waits {
		select {
		case l.queue <- p:
			return
		default:
		}
	}
	l.queued.Add(-int64(len(p.data)))
	l.count.Count(Dropped)
}

// write takes entries from the queue to the servers until the level is closed, all that wait in one go.
func (l *L2) write() {
	for {
		var batch []l2Put
		select {
		case p := <-l.queue:
			batch = append(batch, p)
		case <-l.stop:
			return
		}
		for more := true; more && len(batch) < l2Batch; {
			select {
			case p := <-l.queue:
				batch = append(batch, p)
			default:
				more = false
			}
		}
		l.writeBatch(batch)
	}
}

func (l *L2) writeBatch(batch []l2Put) {
	for _, p := range batch {
		l.queued.Add(-int64(len(p.data)))
	}
	conn, err := l.client.Conn()
	if err != nil || !l.member.Holds(time.Now()) {
		return // it would only wait for time to pass
	}
	var commands []valkey.Completed
	var fills []int
	for _, p := range batch {
		if p.data == nil {
			commands = append(commands, conn.B().Del().Key(p.key).Build())
			continue
		}
		fills = append(fills, len(commands))
		commands = append(commands, conn.B().Set().Key(l.entryKey(p.key)).Value(valkey.BinaryString(p.data)).PxMilliseconds(max(1, p.life.Milliseconds())).Build())
		if p.flew {
			commands = append(commands, conn.B().Del().Key(l.flightKey(p.key)).Build())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), l2Time)
	defer cancel()
	got := conn.DoMulti(ctx, commands...)
	for _, i := range fills {
		if got[i].Error() != nil {
			l.count.Count(Failed)
		} else {
			l.count.Count(Filled)
		}
	}
}

// raised is what raising versions has brought.
type raised struct {
	was, is map[uint32]uint64
	writes  bool // others were under way
}

// has tells whether versions are those that were seen.
func (s *sight) has(versions [][2]uint64) bool {
	return len(versions) == len(s.versions) && !slices.ContainsFunc(versions, func(v [2]uint64) bool { return !slices.Contains(s.versions, v) })
}

// follows tells whether nobody else raised a version between before and r, nor had a write under way.
func (r *raised) follows(before *raised) bool {
	if r == nil || before == nil || r.writes || before.writes {
		return false
	}
	for s, was := range r.was {
		if before.is[s] != was {
			return false
		}
	}
	return true
}

// after gives what is to be known of tags when a write has raised some of them: nil where that is not known.
func (s *sight) after(r *raised) *sight {
	if s == nil || r == nil || s.writing {
		return nil
	}
	out := &sight{run: s.run}
	for _, v := range s.versions {
		if is, ok := r.is[uint32(v[0])]; ok {
			v[1] = is
		}
		out.versions = append(out.versions, v)
	}
	return out
}

// errAway says that Redis does not know yet what was made void.
var errAway = errors.New("no answer from Redis; it is told as soon as it does, and not read until then")

// How a version is raised.
const (
	writeBegins = "1"
	writeEnds   = "-1"
	noWrite     = "0"
	writeHeard  = "+0" // of others, which every process hears of by itself
)

// raise raises the versions of stripes and announces it. hold is how long a write that begins may go on, should nobody say
// that it has ended. Unless it begins, raise waits until nobody serves any more what was made void. After an error the level is
// closed to this process until the versions are raised.
func (l *L2) raise(marks []stamp, how string, hold time.Duration) (*raised, error) {
	asked := make([]uint32, len(marks))
	for i, m := range marks {
		asked[i] = m.stripe
	}
	out, err := l.announce(asked, how, hold)
	if err != nil {
		l.tags.debts.owe(asked)
		l.count.Count(Failed)
	}
	return out, err
}

func (l *L2) announce(asked []uint32, how string, hold time.Duration) (*raised, error) {
	keys, texts := make([]string, len(asked)), make([]string, len(asked))
	for i, s := range asked {
		keys[i], texts[i] = l.versionKey(s), strconv.FormatUint(uint64(s), 10)
	}
	ctx, cancel := context.WithTimeout(context.Background(), redis.Lease)
	defer cancel()
	got, err := l.member.Announce(ctx, raiseVersions, keys, []string{how, strconv.FormatInt(hold.Microseconds(), 10)}, strings.Join(texts, ","), how != writeBegins && how != writeHeard)
	if err != nil {
		return nil, err
	}
	if len(got) != 3*len(asked) {
		return nil, errors.New("there came another number of versions from Redis than were raised")
	}
	out := &raised{was: map[uint32]uint64{}, is: map[uint32]uint64{}}
	for i, s := range asked {
		var v [3]uint64
		for k := range v {
			text, err := got[3*i+k].ToString()
			if err == nil {
				v[k], err = strconv.ParseUint(text, 10, 63)
			}
			if err != nil {
				return nil, err
			}
		}
		out.was[s], out.is[s] = v[0], v[1]
		out.writes = out.writes || v[2] > 0
	}
	return out, nil
}

// beginVersions gives the versions of keys behind the first, which is what MGET would give, and makes those that are not
// there: the time, so that none is had twice.
var beginVersions = valkey.NewLuaScript(`
if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local out = {redis.call('GET', KEYS[1]) or ''}
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], string.format('%.0f:0:0', t[1] * 1000000 + t[2]), 'NX')
  out[i] = redis.call('GET', KEYS[i])
end
return out`)

// raiseVersions raises the versions of keys, and counts the writes under way: args are the change of that count, and how
// long it may take in microseconds. It gives the old version, the new one, and how many others are under way, for each.
var raiseVersions = redis.NewScript(`
  local out = {}
  for i = 1, #keys do
    local version, writes, till = string.match(redis.call('GET', keys[i]) or '0:0:0', '(%d+):(%d+):(%d+)')
    version, writes, till = tonumber(version), tonumber(writes), tonumber(till)
    if till < now then writes = 0 end
    local new = math.max(version + 1, now)
    local others = writes
    if args[1] == '-1' then others = math.max(0, writes - 1) end
    writes = math.max(0, writes + args[1])
    if writes == 0 then till = 0 else till = math.max(till, now + args[2]) end
    redis.call('SET', keys[i], string.format('%.0f:%.0f:%.0f', new, writes, till))
    out[#out + 1] = string.format('%.0f', version)
    out[#out + 1] = string.format('%.0f', new)
    out[#out + 1] = string.format('%.0f', others)
  end
  return out`)
