package session

import (
	"strconv"
	"strings"
)

// Message is one event of a stream.
type Message struct {
	ID   string // of the event, unique in the session
	Data []byte // one JSON-RPC message; empty primes the stream
}

type logged struct {
	stream uint64
	seq    uint64
	data   []byte
}

// eventLog holds the last messages of all streams of one session, in the order they were sent, bounded in bytes.
type eventLog struct {
	max, bytes int
	events     []logged
	nextSeq    uint64
	nextStream uint64
	dropped    uint64                 // events up to this sequence number are forgotten
	open       map[uint64]*openStream // by id
}

// openStream is what is known of a stream on which messages may still come.
type openStream struct {
	wake    chan struct{} // closed and replaced at each message
	dropped uint64        // the last event of this stream that is forgotten
}

// loggedCost is what an event takes beside its data.
const loggedCost = 64

func (l *eventLog) end() {
	for _, o := range l.open {
		close(o.wake)
	}
	l.open = nil
}

// trim forgets the oldest events, as many as it takes.
func (l *eventLog) trim() {
	for l.bytes > l.max {
		e := l.events[0]
		l.bytes -= len(e.data) + loggedCost
		l.dropped = e.seq
		if o := l.open[e.stream]; o != nil {
			o.dropped = e.seq
		}
		l.events[0] = logged{} // its data must not live for as long as the array does
		l.events = l.events[1:]
	}
}

// droppedOf gives the last event of a stream that may have been forgotten. Of a stream that has ended it is only known
// which events of all were.
func (l *eventLog) droppedOf(id uint64) uint64 {
	if o := l.open[id]; o != nil {
		return o.dropped
	}
	return l.dropped
}

// Stream is one event stream of a session: what is sent on it can be read again from any of its events on.
type Stream struct {
	s  *Session
	id uint64
}

// NewStream begins a stream.
func (s *Session) NewStream() *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newStreamLocked()
}

func (s *Session) newStreamLocked() *Stream {
	s.log.nextStream++
	if !s.isEnded {
		if s.log.open == nil {
			s.log.open = map[uint64]*openStream{}
		}
		s.log.open[s.log.nextStream] = &openStream{wake: make(chan struct{})}
	}
	return &Stream{s, s.log.nextStream}
}

// Standalone gives the session's one stream for messages that belong to no request.
func (s *Session) Standalone() *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone == nil {
		s.alone = s.newStreamLocked()
	}
	return s.alone
}

// Is tells whether two are the same stream.
func (t *Stream) Is(other *Stream) bool { return t.id == other.id && t.s == other.s }

// Send adds a message to the stream and gives it with its id. last ends the stream. data is kept: nobody may change it
// afterwards. A message that alone is more than may be kept is forgotten at once, and its stream cannot be resumed from
// before it.
func (t *Stream) Send(data []byte, last bool) Message {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.log
	l.nextSeq++
	e := logged{t.id, l.nextSeq, data}
	l.events = append(l.events, e)
	l.bytes += len(data) + loggedCost
	l.trim()
	if o := l.open[t.id]; o != nil {
		close(o.wake)
		if last {
			delete(l.open, t.id)
		} else {
			o.wake = make(chan struct{})
		}
	}
	return Message{eventID(t.id, e.seq), data}
}

// End closes the stream without a message.
func (t *Stream) End() {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.log.open[t.id]; o != nil {
		close(o.wake)
		delete(s.log.open, t.id)
	}
}

func eventID(stream, seq uint64) string {
	return strconv.FormatUint(stream, 36) + "-" + strconv.FormatUint(seq, 36)
}

func parseEventID(id string) (stream, seq uint64, ok bool) {
	a, b, found := strings.Cut(id, "-")
	stream, err := strconv.ParseUint(a, 36, 64)
	if !found || err != nil {
		return 0, 0, false
	}
	seq, err = strconv.ParseUint(b, 36, 64)
	return stream, seq, err == nil
}

// Resume gives the messages of the stream of an event that came after that event, and the stream to go on with. more is
// closed when there are further ones; it is nil when the stream has ended. It is false for an id that is no event of
// this session, or one behind which messages have been forgotten.
func (s *Session) Resume(lastEventID string) (messages []Message, stream *Stream, more <-chan struct{}, ok bool) {
	id, seq, ok := parseEventID(lastEventID)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.log
	if !ok || id == 0 || id > l.nextStream || seq > l.nextSeq || seq < l.droppedOf(id) {
		return nil, nil, nil, false
	}
	for _, e := range l.events {
		if e.stream == id && e.seq > seq {
			messages = append(messages, Message{eventID(id, e.seq), e.data})
		}
	}
	if o := l.open[id]; o != nil {
		more = o.wake
	}
	return messages, &Stream{s, id}, more, true
}
