package redis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
)

// Lease is how long a member may rely on what it knows without hearing from the others.
const Lease = 100 * time.Millisecond

const (
	renewEvery = Lease / 3
	// leaseMargin is what a holder takes off its lease, for clocks that do not run alike.
	leaseMargin = Lease / 20
	// forget is how long after its end a lease is removed.
	forget = 10 * time.Second
	// announcements may be under way at once; they are writes' own round trips.
	announcements = 1000
)

// Listener hears what other members announce.
type Listener interface {
	// Announced is told of each announcement, in the order in which the server made them. When it returns the member has
	// acknowledged it.
	Announced(payload string)
	// Missed is told, before the member gets a lease on a new connection, that announcements may have been missed until now.
	Missed()
	// Owes tells whether there is something that could not be announced. A member whose lease has run out gets none until Pay has announced
	// it, which is called when the server can be reached, by a goroutine of its own, and by Close once more.
	Owes() bool
	Pay()
}

// Member is this process among those that share the servers' data. While it holds a lease, what it has been told is all that
// there was to be told: an announcement waits for each holder to acknowledge it, or for its lease to lapse. So a holder may serve
// what it keeps without asking anybody.
//
// A lease is renewed through the channel of the announcements themselves: its token comes behind all that was announced
// before. So a member that fell behind gets none until it has caught up. The server's clock measures a lease from after it
// was asked for, the member's from before.
//
// The server may have been away from several members at once. One that comes back while others have not leaves them a Lease in which to
// announce what they could not: the server knows whose leases have run out.
type Member struct {
	c        *Client
	group    string // of members that hear each other
	id       string
	listener Listener
	until    atomic.Int64 // the end of the lease, in nanoseconds since base
	base     time.Time

	// These are of listen's goroutine alone.
	behind bool      // nothing has been heard on this connection yet
	last   time.Time // when the newest token was heard
	trial  time.Time // until when the others have time, where some have not come back; zero where there is no need

	owing   chan struct{} // holds something when Pay is to be called
	again   chan struct{} // holds something when the lease is to be asked for at once
	running chan struct{} // holds one for each announcement that the server has not answered

	mu     sync.Mutex // guards what follows
	tokens map[string]time.Time
	number string // that a request brings along since the lease ran out
	waits  map[string]*wait
	token  uint64
	acks   chan string // from whom, and of what

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// wait is for the acknowledgements of an announcement.
type wait struct {
	got  map[string]bool
	news chan struct{} // holds something when got has grown
}

// Join makes a member of a group that hears of all announcements there. Close must be called.
func (c *Client) Join(group string, l Listener) *Member {
	id := make([]byte, 12)
	_, _ = rand.Read(id) // never fails
	m := &Member{c: c, group: group, id: hex.EncodeToString(id), listener: l, base: time.Now(), tokens: map[string]time.Time{}, waits: map[string]*wait{},
		acks: make(chan string, 1000), owing: make(chan struct{}, 1), again: make(chan struct{}, 1), running: make(chan struct{}, announcements)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.work.Go(m.listen)
	m.work.Go(m.acknowledge)
	m.work.Go(m.pay)
	return m
}

// Holds tells whether the member held its lease at now, which is not later than the present.
func (m *Member) Holds(now time.Time) bool { return int64(now.Sub(m.base)) < m.until.Load() }

// Close gives the lease back, and tries to pay what is owed.
func (m *Member) Close() {
	if m.listener.Owes() {
		m.listener.Pay()
	}
	m.until.Store(0)
	m.cancel()
	m.work.Wait()
	if conn, err := m.c.Conn(); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), Lease)
		defer cancel()
		conn.Do(ctx, conn.B().Hdel().Key(m.key("members")).Field(m.id).Build())
	}
}

func (m *Member) key(name string) string { return m.c.SharedKey(m.group + ":" + name) }

func (m *Member) news() string { return m.key("news") }

func (m *Member) mailbox(id string) string { return m.key("to:" + id) }

// publish gives the command that publishes, and how it is read: in a cluster a message keeps its order with scripts only on the
// server that runs them.
func publish(conn valkey.Client) string {
	if conn.Mode() == valkey.ClientModeCluster {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// listen hears messages until the member is closed. Each time that the connection breaks the lease is gone at once.
func (m *Member) listen() {
	select {
	case <-m.c.Ready():
	case <-m.ctx.Done():
		return
	}
	conn, err := m.c.Conn()
	if err != nil {
		return // unreachable: it is ready
	}
	told := false
	for m.ctx.Err() == nil {
		var subscribe valkey.Completed
		if publish(conn) == "SPUBLISH" {
			subscribe = conn.B().Ssubscribe().Channel(m.news(), m.mailbox(m.id)).Build()
		} else {
			subscribe = conn.B().Subscribe().Channel(m.news(), m.mailbox(m.id)).Build()
		}
		m.behind, m.trial = true, time.Time{}
		ctx, cancel := context.WithCancel(m.ctx)
		var renewing sync.WaitGroup
		renewing.Go(func() { m.renew(ctx, conn) })
		err := conn.Receive(ctx, subscribe, func(msg valkey.PubSubMessage) {
			told = false
			m.message(msg)
		})
		m.until.Store(0)
		cancel()
		renewing.Wait()
		m.mu.Lock()
		clear(m.tokens)
		m.mu.Unlock()
		if m.ctx.Err() == nil && !told {
			told = true
			m.c.log.Warn("the connection to Redis broke: what other servers change is not known until it is back", "error", err)
		}
		select {
		case <-time.After(renewEvery):
		case <-m.ctx.Done():
		}
	}
}

// message takes a message of one of the two channels. They come one after the other.
func (m *Member) message(msg valkey.PubSubMessage) {
	kind, rest, _ := strings.Cut(msg.Message, " ")
	if msg.Channel == m.news() { // FROM NUMBER PAYLOAD
		number, payload, _ := strings.Cut(rest, " ")
		if kind == m.id {
			return // what it did itself it knows
		}
		m.listener.Announced(payload)
		if number != "0" {
			m.ack(kind + " " + number)
		}
		return
	}
	switch kind {
	case "lease": // TOKEN STATE [NUMBER]
		token, state, _ := strings.Cut(rest, " ")
		state, number, _ := strings.Cut(state, " ")
		m.mu.Lock()
		asked, ok := m.tokens[token]
		delete(m.tokens, token)
		changed := number != "" && number != m.number
		if changed {
			m.number = number
		}
		m.mu.Unlock()
		if changed {
			m.askAgain()
		}
		if ok {
			m.heard(asked, state)
		}
	case "ack": // NUMBER FROM
		number, from, _ := strings.Cut(rest, " ")
		m.mu.Lock()
		w := m.waits[number]
		if w != nil {
			w.got[from] = true
		}
		m.mu.Unlock()
		if w != nil {
			select {
			case w.news <- struct{}{}:
			default:
			}
		}
	}
}

// The states of a renewal, as the server tells them.
const (
	stateNone  = "0" // there is no lease: it ran out
	stateAlone = "1" // others have lost theirs, and have not come back
	stateAll   = "2"
)

// heard takes the token that was asked for at asked.
func (m *Member) heard(asked time.Time, state string) {
	if m.behind {
		m.behind = false
		m.listener.Missed()
	}
	now := time.Now()
	steady := now.Sub(m.last) <= Lease
	m.last = now
	if m.listener.Owes() {
		select {
		case m.owing <- struct{}{}:
		default:
		}
	}
	switch {
	case state == stateNone:
		return
	case state == stateAlone && !m.Holds(now):
		if m.trial.IsZero() || !steady {
			m.trial = now.Add(Lease)
		}
		if now.Before(m.trial) {
			return
		}
	}
	m.trial = time.Time{}
	m.until.Store(int64(asked.Add(Lease - leaseMargin).Sub(m.base)))
}

// pay has announced what could not be, when the server can be reached.
func (m *Member) pay() {
	for {
		select {
		case <-m.owing:
			if m.listener.Owes() {
				m.listener.Pay()
				m.askAgain()
			}
		case <-m.ctx.Done():
			return
		}
	}
}

func (m *Member) askAgain() {
	select {
	case m.again <- struct{}{}:
	default:
	}
}

// ack queues an acknowledgement. Where there are too many, the other waits for the lease's end.
func (m *Member) ack(of string) {
	select {
	case m.acks <- of:
	default:
	}
}

// acknowledge sends what ack queued, all that waits in one go.
func (m *Member) acknowledge() {
	for {
		var batch []string
		select {
		case of := <-m.acks:
			batch = append(batch, of)
		case <-m.ctx.Done():
			return
		}
		for more := true; more && len(batch) < cap(m.acks); {
			select {
			case of := <-m.acks:
				batch = append(batch, of)
			default:
				more = false
			}
		}
		conn, err := m.c.Conn()
		if err != nil {
			continue
		}
		commands := make([]valkey.Completed, 0, len(batch))
		for _, of := range batch {
			from, number, _ := strings.Cut(of, " ")
			commands = append(commands, conn.B().Arbitrary(publish(conn)).Keys(m.mailbox(from)).Args("ack "+number+" "+m.id).Build())
		}
		ctx, cancel := context.WithTimeout(m.ctx, Lease)
		conn.DoMulti(ctx, commands...) // what is lost is waited for no longer than the lease
		cancel()
	}
}

// renewal lets the member ARGV[1] rely on what it knows for ARGV[2] microseconds more, and tells it so behind all that has been announced, with
// the state. One whose lease has run out gets none at first but the number of that request, which it must bring along (ARGV[7]) once it owes
// nothing (ARGV[5]): a request that it sent before the outage cannot. Until then the others see that it is not back.
//
// A server that is another than the last, or the same in another life, may have forgotten what was announced: its name is what results depend
// on. Nor does it know all members, as it does not when their list is lost: the list says since when it is kept.
var renewal = valkey.NewLuaScript(`
if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('GET', KEYS[2]) ~= run then redis.call('SET', KEYS[2], run) end
local since, at = string.match(redis.call('HGET', KEYS[1], 'since') or '', '(%w+) (%d+)')
if since ~= run then
  at = now
  redis.call('HSET', KEYS[1], 'since', run .. string.format(' %.0f', now))
end
local ends, asked = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%d+) ?(%d*)$')
asked = asked or ''
local over = ends and ends * 1 <= now
if ARGV[5] == '1' and (over or not ends) or over and (asked == '' or asked ~= ARGV[7]) then
  if over and asked == '' then
    asked = ARGV[4]
    redis.call('HSET', KEYS[1], ARGV[1], ends .. ' ' .. asked)
  end
  return redis.call(ARGV[3], KEYS[3], 'lease ' .. ARGV[4] .. ' 0 ' .. asked)
end
local state = '2'
if now - at < ARGV[2] * 1 then state = '1' end
local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  if members[i] ~= 'since' and members[i] ~= ARGV[1] then
    local left = string.match(members[i + 1], '^%d+') - now
    if left <= 0 and left >= -ARGV[6] then state = '1' end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + ARGV[2]))
return redis.call(ARGV[3], KEYS[3], 'lease ' .. ARGV[4] .. ' ' .. state)`)

func microseconds(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

// renew asks for the lease again and again.
func (m *Member) renew(ctx context.Context, conn valkey.Client) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		asked := time.Now()
		m.mu.Lock()
		m.token++
		token := strconv.FormatUint(m.token, 10)
		for old, at := range m.tokens {
			if asked.Sub(at) > Lease {
				delete(m.tokens, old)
			}
		}
		m.tokens[token] = asked
		number := m.number
		m.mu.Unlock()
		owes := "0"
		if m.listener.Owes() && !m.Holds(asked) {
			owes = "1"
		}
		within, cancel := context.WithTimeout(ctx, Lease)
		_ = renewal.Exec(within, conn, []string{m.key("members"), m.RunKey(), m.mailbox(m.id)},
			[]string{m.id, microseconds(Lease), publish(conn), token, owes, microseconds(forget), number}).Error() // no token comes, then
		cancel()
		select {
		case <-t.C:
		case <-m.again:
		case <-ctx.Done():
			return
		}
	}
}

// RunKey is the key of the name of the server's present life. It is right while any member holds a lease.
func (m *Member) RunKey() string { return m.key("run") }

// Script is a Lua script that changes shared keys and announces it in the same step.
type Script struct{ lua *valkey.Lua }

// NewScript makes a script of a Lua function's body. It has keys and args, and now: the server's time in microseconds since 1970.
func NewScript(body string) *Script {
	return &Script{valkey.NewLuaScript(`
if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function work(keys, args)
` + body + `
end
local keys, args = {}, {}
for i = 3, #KEYS do keys[i - 2] = KEYS[i] end
for i = 5, #ARGV do args[i - 4] = ARGV[i] end
local out = work(keys, args)
redis.call(ARGV[1], KEYS[2], ARGV[2])
local members, live, all = redis.call('HGETALL', KEYS[1]), {}, 0
for i = 1, #members, 2 do
  if members[i] == 'since' then
    local run, at = string.match(members[i + 1], '(%w+) (%d+)')
    if now - at >= ARGV[4] * 1 and run == string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') then all = 1 end
  else
    local left = string.match(members[i + 1], '^%d+') - now
    if left > 0 then
      live[#live + 1] = members[i]
      live[#live + 1] = string.format('%.0f', left)
    elseif left < -ARGV[3] then
      redis.call('HDEL', KEYS[1], members[i])
    end
  end
end
return {out, live, all}`)}
}

// Announce runs a script, which announces payload, and gives what it returned. With wait it returns when every member
// that held a lease has acknowledged it, or holds it no longer. After an error it is not known whether the script ran;
// with wait, every lease that the failing server gave is over by then.
func (m *Member) Announce(ctx context.Context, script *Script, keys, args []string, payload string, mayWait bool) ([]valkey.ValkeyMessage, error) {
	began := time.Now()
	number := "0"
	var w *wait
	if mayWait {
		w = &wait{got: map[string]bool{}, news: make(chan struct{}, 1)}
		m.mu.Lock()
		m.token++
		number = strconv.FormatUint(m.token, 10)
		m.waits[number] = w
		m.mu.Unlock()
		defer func() {
			m.mu.Lock()
			delete(m.waits, number)
			m.mu.Unlock()
		}()
	}
	out, live, all, err := m.announce(ctx, script, keys, args, m.id+" "+number+" "+payload)
	if !mayWait {
		return out, err
	}
	if err != nil {
		m.sleep(Lease - time.Since(began))
		return nil, err
	}
	if !all { // some that hold a lease may not be on its list
		m.sleep(Lease)
		return out, nil
	}
	delete(live, m.id)
	m.await(w, live)
	return out, nil
}

// announce runs a script. It gives what that returned, the others' leases, and whether all that hold one are among them.
func (m *Member) announce(ctx context.Context, script *Script, keys, args []string, message string) (out []valkey.ValkeyMessage, live map[string]time.Duration, all bool, err error) {
	conn, err := m.c.Conn()
	if err != nil {
		return nil, nil, false, err
	}
	select {
	case m.running <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, false, ctx.Err()
	}
	answer := make(chan valkey.ValkeyResult, 1)
	go func() { // ends with the connection at the latest; while that is being made, the library does not look at ctx
		defer func() { <-m.running }()
		answer <- script.lua.Exec(ctx, conn, append([]string{m.key("members"), m.news()}, keys...),
			append([]string{publish(conn), message, microseconds(forget), microseconds(Lease)}, args...))
	}()
	var reply []valkey.ValkeyMessage
	select {
	case r := <-answer:
		reply, err = r.ToArray()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, nil, false, err
	}
	if len(reply) != 3 {
		return nil, nil, false, fmt.Errorf("a script gave %d values", len(reply))
	}
	out, err = reply[0].ToArray()
	list, err2 := reply[1].AsStrSlice()
	known, err3 := reply[2].AsInt64()
	if err = errors.Join(err, err2, err3); err != nil {
		return nil, nil, false, err
	}
	live = map[string]time.Duration{}
	for i := 0; i+1 < len(list); i += 2 {
		left, err := strconv.ParseInt(list[i+1], 10, 64)
		if err != nil {
			return nil, nil, false, fmt.Errorf("a lease of %q", list[i+1])
		}
		live[list[i]] = min(time.Duration(left)*time.Microsecond, Lease)
	}
	return out, live, known == 1, nil
}

// await returns when all of live have acknowledged, each within its time.
func (m *Member) await(w *wait, live map[string]time.Duration) {
	var longest time.Duration
	for _, left := range live {
		longest = max(longest, left)
	}
	over := time.NewTimer(longest)
	defer over.Stop()
	for {
		m.mu.Lock()
		for id := range w.got {
			delete(live, id)
		}
		m.mu.Unlock()
		if len(live) == 0 {
			return
		}
		select {
		case <-w.news:
		case <-over.C:
			return
		case <-m.ctx.Done():
			return
		}
	}
}

func (m *Member) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-m.ctx.Done():
	}
}
