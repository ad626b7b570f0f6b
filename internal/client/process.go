package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"

	"millrace/internal/proc"
)

// processGrace is how long a process has to end by itself once its input is closed.
const processGrace = 2 * time.Second

// process is a server on the other end of two pipes: one message a line.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	max  int
	line []byte

	writing chan struct{} // of one: holds something while a message is written
	stdout  io.Closer
	once    sync.Once
	gone    chan struct{} // closed when the process has been waited for
}

func startProcess(cmd *exec.Cmd, max int) (*process, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	proc.Group(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return &process{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 64<<10), stdout: out, max: max,
		writing: make(chan struct{}, 1), gone: make(chan struct{})}, nil
}

// send writes a message. A process that does not read is stopped when ctx ends: half a message cannot be taken back. A
// message that has to wait for another one is not begun after that.
func (p *process) send(ctx context.Context, message []byte) error {
	select {
	case p.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.writing }()
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { p.in.Close() })
	defer stop()
	_, err := p.in.Write(append(message[:len(message):len(message)], '\n'))
	return err
}

// next reads a message; it is good until the next one.
func (p *process) next() ([]byte, error) {
	p.line = p.line[:0]
	for {
		part, err := p.out.ReadSlice('\n')
		if len(p.line)+len(part) > p.max {
			return nil, protocolErrorf("a message of more than %d bytes", p.max)
		}
		p.line = append(p.line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return nil, err
		}
		if line := p.line[:len(p.line)-1]; len(line) > 0 {
			return line, nil
		}
		p.line = p.line[:0]
	}
}

// end stops the process and waits for it.
func (p *process) end() {
	p.stop()
	_ = p.cmd.Wait() // how it ended does not matter: it is gone
	close(p.gone)
}

// stop makes the process end: what it says until then is still read.
func (p *process) stop() {
	p.once.Do(func() {
		p.in.Close()
		timer := time.AfterFunc(processGrace, func() {
			proc.Kill(p.cmd)
			p.stdout.Close() // which a process that it has started may hold open
		})
		go func() { // ends with the process, which is killed at the latest
			<-p.gone
			timer.Stop()
		}()
	})
}
