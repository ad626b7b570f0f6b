package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what a run uses of the computer: a temporary folder, tools, the cores of servers and of load, and the
// processes it has started.
type machine struct {
	dir        string
	taskset    string // empty: nothing is pinned
	serverCPUs string
	loadCPUs   string

	mu    sync.Mutex
	procs []*process // guarded by mu; in order of their start
}

// load returns the command with the cores of the load tool in front of it, server the one with the servers'.
func (m *machine) load(argv []string) (string, []string)   { return m.pinned(m.loadCPUs, argv) }
func (m *machine) server(argv []string) (string, []string) { return m.pinned(m.serverCPUs, argv) }

func (m *machine) pinned(cpus string, argv []string) (string, []string) {
	if m.taskset == "" {
		return argv[0], argv[1:]
	}
	return m.taskset, append([]string{"-c", cpus}, argv...) // taskset replaces itself: the process id stays the server's
}

// process is a server of this run.
type process struct {
	name string
	addr string
	cmd  *exec.Cmd
	log  *tail
	done chan struct{} // closed when the process has ended
	quit syscall.Signal
}

// tail keeps the last bytes that a process wrote.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 8<<10 {
		t.buf = slices.Clone(t.buf[len(t.buf)-4<<10:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// startOptions are the parts of a start that servers differ in.
type startOptions struct {
	gogc       string                      // empty: the variable is unset
	dir        string                      // working folder
	credential *syscall.Credential         // another user
	onLoadCPUs bool                        // pin beside the load tool, not the servers
	quit       syscall.Signal              // zero: SIGTERM
	ready      func(context.Context) error // asked until it returns nil
}

// start runs a command and waits until it is ready. The machine ends it at stop.
func (m *machine) start(ctx context.Context, name, addr string, argv []string, o startOptions) (*process, error) {
	bin, args := m.server(argv)
	if o.onLoadCPUs {
		bin, args = m.load(argv)
	}
	p := &process{name: name, addr: addr, cmd: exec.Command(bin, args...), log: &tail{}, done: make(chan struct{}), quit: syscall.SIGTERM}
	if o.quit != 0 {
		p.quit = o.quit
	}
	p.cmd.Dir = o.dir
	p.cmd.Env = environment(o.gogc)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	// A group of its own keeps Ctrl-C from the terminal away: stop ends it, in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: o.credential}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	m.mu.Lock()
	m.procs = append(m.procs, p)
	m.mu.Unlock()
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := o.ready(ctx)
		if err == nil {
			return p, nil
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("start %s: it ended at once: %s", name, p.log)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("start %s: not ready in 20 s: %w: %s", name, err, p.log)
		}
	}
}

// stop ends every process, last started first, each by its own id.
func (m *machine) stop() {
	m.mu.Lock()
	procs := slices.Clone(m.procs)
	m.procs = nil
	m.mu.Unlock()
	for _, p := range slices.Backward(procs) {
		p.stop()
	}
}

func (p *process) stop() {
	p.cmd.Process.Signal(p.quit)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// environment is ours without the collector's settings, or with GOGC as given. Equal settings for every server are the
// point; what stands in the caller's environment would spoil them.
func environment(gogc string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "GOGC=") || strings.HasPrefix(kv, "GOMEMLIMIT=") || strings.HasPrefix(kv, "GOMAXPROCS=")
	})
	if gogc != "" {
		env = append(env, "GOGC="+gogc)
	}
	return env
}

// cpuTime is the user and system time of all threads of the process, those that have ended too, in the scheduler's
// nanoseconds (clock_getcpuclockid; /proc/PID/stat has the same in ticks of 10 ms).
func (p *process) cpuTime() (time.Duration, error) {
	var ts unix.Timespec
	const schedClock = 2 // CPUCLOCK_SCHED
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("CPU time of %s: %w", p.name, err)
	}
	return time.Duration(ts.Nano()), nil
}

// memory returns the resident memory and its peak in bytes.
func (p *process) memory() (resident, peak int64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0, 0, fmt.Errorf("memory of %s: %w", p.name, err)
	}
	return statusBytes(b, "VmRSS"), statusBytes(b, "VmHWM"), nil
}

// statusBytes reads one "Name:  123 kB" line.
func statusBytes(status []byte, name string) int64 {
	for line := range bytes.Lines(status) {
		if f := strings.Fields(string(line)); len(f) >= 2 && f[0] == name+":" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// freeAddr returns a loopback address that nobody listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// freeAddrs returns two of them: for a server and its admin listener.
func freeAddrs() (addr, admin string, err error) {
	if addr, err = freeAddr(); err == nil {
		admin, err = freeAddr()
	}
	return addr, admin, err
}

// listening is ready once the address accepts connections.
func listening(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		p, err := dial(ctx, addr)
		if err == nil {
			p.close()
		}
		return err
	}
}
