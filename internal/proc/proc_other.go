//go:build !unix

package proc

import "os/exec"

// Group does nothing: there are no process groups here.
func Group(*exec.Cmd) {}

// Terminate ends the process alone: it cannot be asked here.
func Terminate(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

// Kill ends the process alone.
func Kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
