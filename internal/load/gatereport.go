package load

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Write writes one line for each gate.
func (v *Verdict) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range v.Results {
		r := &v.Results[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s", r.Outcome, r.Figure, r.Value, r.Limit)
		if r.Reason != "" {
			fmt.Fprintf(t, "\t%s", r.Reason)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, v.summary())
	return err
}

func (v *Verdict) summary() string {
	if n := v.failed(); n > 0 {
		return fmt.Sprintf("%s: %d of %d gates failed", v.Gates, n, len(v.Results))
	}
	return fmt.Sprintf("%s: all %d gates hold", v.Gates, len(v.Results))
}

// WriteMarkdown writes the verdict as a table, for a pull request or a job's summary.
func (v *Verdict) WriteMarkdown(w io.Writer) error {
	cell := func(s string) string {
		return strings.NewReplacer("\\", "\\\\", "|", "\\|", "\r", " ", "\n", " ", "<", "&lt;", "`", "\\`").Replace(s)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** (scenario %s)\n\n| Verdict | Figure | Value | Limit | |\n|---|---|---|---|---|\n", cell(v.summary()), cell(v.Scenario))
	for i := range v.Results {
		r := &v.Results[i]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Outcome, cell(r.Figure), cell(r.Value), cell(r.Limit), cell(r.Reason))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	Failure *junitFailure `xml:"failure,omitempty"`
}

type junitFailure struct {
	Type    string `xml:"type,attr"`
	Message string `xml:"message,attr"`
}

// WriteJUnit writes the verdict as JUnit's XML: a gate is a test, and one that is missing failed.
func (v *Verdict) WriteJUnit(w io.Writer) error {
	s := junitSuite{Name: "millrace gate " + v.Gates, Tests: len(v.Results), Failures: v.failed()}
	for i := range v.Results {
		r := &v.Results[i]
		c := junitCase{Name: r.Figure + " " + r.Limit, Class: "millrace.gate." + v.Scenario}
		if r.Outcome != Pass {
			message := r.Value + ", and the limit is " + r.Limit
			if r.Reason != "" {
				message = r.Reason
			}
			c.Failure = &junitFailure{string(r.Outcome), message}
		}
		s.Cases = append(s.Cases, c)
	}
	data, err := xml.MarshalIndent(struct {
		XMLName xml.Name `xml:"testsuites"`
		Suite   junitSuite
	}{Suite: s}, "", "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, xml.Header+string(data)+"\n")
	return err
}

// Lines gives the results for a report.
func (v *Verdict) Lines() (out []Line) {
	for _, r := range v.Results {
		value := r.Value
		if r.Reason != "" {
			value = r.Reason
		}
		out = append(out, Line{Name: r.Figure, Value: value, Limit: r.Limit, Passed: r.Outcome == Pass})
	}
	return out
}
