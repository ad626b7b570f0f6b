package telemetry

import (
	"sync"
	"sync/atomic"
	"time"
)

// cacheStatuses bounds the number of cache statuses; a power of two.
const cacheStatuses = 8

// Operation is where one method of one tool in one revision of the protocol is counted. It is resolved when the
// configuration is loaded and kept by whoever serves the tool. Its methods are safe for concurrent use.
type Operation struct {
	revision string
	target   *target
	// children are the series by cache status, made when first seen: most tools only ever show two of them.
	children [cacheStatuses]atomic.Pointer[child]
}

type child struct {
	cache string
	Histogram
}

// target is what the operations of one method and tool have in common.
type target struct {
	method, tool string
	errors       sync.Map              // kind → *Counter
	operations   map[string]*Operation // by revision; Metrics.mu guards it
}

// Observe counts one finished operation. The cache status is a small number below 8, and cacheName its name as a fixed
// word: the name is only used when the status is seen for the first time.
func (o *Operation) Observe(cache uint8, cacheName string, d time.Duration) {
	c := o.children[cache%cacheStatuses].Load()
	if c == nil {
		c = o.child(cache, cacheName)
	}
	c.Observe(d)
}

func (o *Operation) child(cache uint8, cacheName string) *child {
	slot := &o.children[cache%cacheStatuses]
	slot.CompareAndSwap(nil, &child{cache: cacheName})
	return slot.Load()
}

// Error counts one operation that failed. The kind is a short fixed word ("timeout", "sql", "invalid_params"), never text
// of a client or of a database: each one is a series for as long as the tool lives.
func (o *Operation) Error(kind string) {
	n, ok := o.target.errors.Load(kind)
	if !ok {
		n, _ = o.target.errors.LoadOrStore(kind, new(Counter))
	}
	n.(*Counter).Add(1)
}

// Operation finds or makes the operation of a method, a tool and a revision. The tool is "" for methods that have none.
// Every value is a configured name or a fixed word, never a client's text.
func (m *Metrics) Operation(method, tool, revision string) *Operation {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := targetKey{method, tool}
	t := m.targets[key]
	if t == nil {
		t = &target{method: method, tool: tool, operations: map[string]*Operation{}}
		m.targets[key] = t
	}
	o := t.operations[revision]
	if o == nil {
		o = &Operation{revision: revision, target: t}
		t.operations[revision] = o
	}
	return o
}

// Drop forgets every series of the tools named, so that reloads which rename tools do not fill the memory. It is for
// tools that the configuration no longer has, once their last request has returned: what is observed on an Operation
// after its Drop is counted nowhere.
func (m *Metrics) Drop(tools ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, tool := range tools {
		m.batches.DeleteLabelValues(tool)
		for key := range m.targets {
			if key.tool == tool {
				delete(m.targets, key)
			}
		}
	}
}
