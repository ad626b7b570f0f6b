package load

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A chart's plot is drawn in units of its own, wide of them across whatever its width on the page, and ten to each pixel
// of its height. Texts stand outside of that, at percentages, so that they keep their size on a narrow page.
const (
	htmlWide  = 10000
	htmlTenth = 10
)

// htmlChart is what the template needs of one chart.
type htmlChart struct {
	ID, Title, About string
	Desc             string // for who cannot see it
	Height           int    // of the plot, in pixels
	X, Y             []htmlTick
	Phases           []htmlBand
	Cells            []htmlShape // of the heat map, one for each colour
	Least, Most      string      // answers for the first and the last of those colours
	Areas, Lines     []htmlShape
	Marks            []htmlTick
	Table            htmlTable
	Empty            string // what stands in place of a chart that has nothing to show
}

// Tall is the plot's height in its own units.
func (c *htmlChart) Tall() int { return c.Height * htmlTenth }

// htmlTick is a mark on an axis: At is a percentage of the width, or pixels from the top.
type htmlTick struct {
	At     string
	Text   string
	Anchor string
	Wide   bool // has no room for its text on a telephone
}

// htmlBand is a phase along the time axis, in units of the plot.
type htmlBand struct {
	X, Width int
	Measured bool
	Label    *htmlTick // nil where no room is
}

// htmlShape is a path of one class; Name is what the legend says.
type htmlShape struct{ Class, Name, D string }

// htmlTable is a table whose first column are headings of rows.
type htmlTable struct {
	Head []string
	Rows []htmlRow
	Note string
}

type htmlRow struct {
	At    string // where on the chart's width, in percent; empty in a table of no chart
	Bad   bool
	Cells []string
}

// htmlAxis maps values to 0 to 1.
type htmlAxis struct {
	lo, hi float64
	log    bool
}

func (a htmlAxis) at(v float64) float64 {
	lo, hi := a.lo, a.hi
	if a.log {
		v, lo, hi = math.Log10(max(v, 1e-12)), math.Log10(lo), math.Log10(hi)
	}
	at := (v - lo) / (hi - lo)
	if math.IsNaN(at) {
		return 0
	}
	return max(0, min(at, 1))
}

// htmlPercent is a place on the width.
func htmlPercent(at float64) string { return strconv.FormatFloat(100*at, 'f', 2, 64) }

func (c *htmlChart) pixels(at float64) string {
	return strconv.FormatFloat((1-at)*float64(c.Height), 'f', 1, 64)
}

// line adds a line through the values; a NaN is a gap in it. Nothing is added where no value is there.
func (c *htmlChart) line(class, name string, xs, ys []float64, x, y htmlAxis) {
	var d strings.Builder
	pen := false
	for i, v := range ys {
		if math.IsNaN(v) {
			pen = false
			continue
		}
		px, py := int(math.Round(x.at(xs[i])*htmlWide)), int(math.Round((1-y.at(v))*float64(c.Tall())))
		if pen {
			fmt.Fprintf(&d, "L%d %d", px, py)
		} else {
			fmt.Fprintf(&d, "M%d %dh0", px, py) // a value between two gaps is a dot
		}
		pen = true
	}
	if d.Len() > 0 {
		c.Lines = append(c.Lines, htmlShape{class, name, d.String()})
	}
}

// heat draws counts by column and step, from step lo on, and says what the colours mean. Colours are logarithmic.
func (c *htmlChart) heat(columns []htmlPiece, x htmlAxis, lo, hi int) {
	var most int64
	for i := range columns {
		most = max(most, slices.Max(columns[i].heat[:]))
	}
	if most == 0 {
		return
	}
	colour := func(n int64) int { // -1 for none
		if n <= 0 {
			return -1
		}
		return min(int(math.Log1p(float64(n-1))/math.Log1p(float64(most))*htmlColours), htmlColours-1)
	}
	paths := make([]strings.Builder, htmlColours)
	edge := func(step int) int { return c.Tall() * (hi - step) / (hi - lo) } // the lower edge of a step
	for i := range columns {
		p := &columns[i]
		left, right := int(x.at(p.start)*htmlWide), int(x.at(p.start+p.seconds)*htmlWide)
		for from := lo; from < hi; {
			k, to := colour(p.heat[from]), from+1
			for to < hi && colour(p.heat[to]) == k {
				to++
			}
			if k >= 0 && right > left {
				fmt.Fprintf(&paths[k], "M%d %dh%dV%dh-%dz", left, edge(from), right-left, edge(to), right-left)
			}
			from = to
		}
	}
	for i := range paths {
		if paths[i].Len() > 0 {
			c.Cells = append(c.Cells, htmlShape{Class: "h" + strconv.Itoa(i), D: paths[i].String()})
		}
	}
	c.Least, c.Most = "1", htmlCount(float64(most))
}

// htmlColours is the number of colours of a heat map, h0 to h8 in the style sheet.
const htmlColours = 9

// linear gives the y axis from zero on with round numbers on it. Base is what the numbers are round in: 1, or a power of
// 1024 for bytes.
func (c *htmlChart) linear(top, base float64, text func(float64) string) htmlAxis {
	if !(top > 0) || math.IsInf(top, 0) {
		top = base
	}
	top /= base
	step := math.Pow(10, math.Floor(math.Log10(top/4)))
	for _, f := range []float64{1, 2, 5, 10} {
		if top/(f*step) <= 5 {
			step *= f
			break
		}
	}
	n := math.Ceil(top/step - 1e-9)
	a := htmlAxis{hi: n * step * base}
	for i := 0.0; i <= n; i++ {
		v := i * step * base
		c.Y = append(c.Y, htmlTick{At: c.pixels(a.at(v)), Text: text(v)})
	}
	return a
}

// times gives a logarithmic y axis of seconds.
func (c *htmlChart) times(lo, hi float64) htmlAxis {
	lo, hi = max(lo, 1e-6), min(hi, 1e5)
	if hi < lo*1.01 {
		lo, hi = lo/1.5, lo*1.5
	}
	a := htmlAxis{lo: lo, hi: hi, log: true}
	steps := []float64{1}
	if math.Log10(hi/lo) < 2.5 {
		steps = []float64{1, 2, 5}
	}
	for decade := math.Floor(math.Log10(lo)); decade <= math.Log10(hi); decade++ {
		for _, s := range steps {
			if v := s * math.Pow(10, decade); v >= lo*0.999 && v <= hi*1.001 {
				c.Y = append(c.Y, htmlTick{At: c.pixels(a.at(v)), Text: htmlTrim(htmlSeconds(v))})
			}
		}
	}
	return a
}

// clock gives the x axis of a run of that many seconds, with its phases, for a plot that is so many pixels wide on a wide page.
func (c *htmlChart) clock(r *Run, total, wide float64) htmlAxis {
	a := htmlAxis{hi: total}
	step := total / 5
	for _, s := range []float64{.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400} {
		if total/s <= 6 {
			step = s
			break
		}
	}
	unit, name := 1.0, "s"
	switch {
	case step >= 3600:
		unit, name = 3600, "h"
	case step >= 60:
		unit, name = 60, "min"
	}
	for i := 0.0; i*step <= total*1.0001; i++ {
		t := htmlTick{At: htmlPercent(a.at(i * step)), Text: htmlTrim(htmlDigits(i*step/unit)) + " " + name, Anchor: "middle"}
		if i == 0 {
			t.Text, t.Anchor = "0", "start"
		} else if a.at(i*step) > 0.97 {
			t.Anchor = "end"
		}
		c.X = append(c.X, t)
	}
	for i := range min(len(r.Phases), htmlMaxBands) {
		p := &r.Phases[i]
		for _, piece := range p.pieces() {
			if len(c.Phases) == htmlMaxBands {
				break
			}
			from, to := a.at(piece[0]), a.at(piece[1])
			b := htmlBand{X: int(from * htmlWide), Width: int(to*htmlWide) - int(from*htmlWide), Measured: p.Measured}
			const narrow, letter = 280, 6.4 // pixels
			text := []rune(htmlClip(p.Name))
			if room := int((to - from) * wide / letter); room < len(text) {
				text = append(text[:max(0, room-1)], '…')
			}
			if len(text) > 3 || len(text) == len([]rune(p.Name)) {
				b.Label = &htmlTick{At: htmlPercent(from), Text: string(text), Wide: (to-from)*narrow < letter*float64(len(text))}
			}
			c.Phases = append(c.Phases, b)
		}
	}
	return a
}

// What is drawn and listed is bounded, so that the file is: a hostile server may make kinds of errors without end.
const (
	htmlMaxPieces = 200 // along the time
	htmlMaxBands  = 60
	htmlMaxRows   = 200 // of a table
	htmlMaxKinds  = 40  // of errors
	htmlMaxText   = 120 // runes of a name
	htmlMaxBrief  = 32  // where room is little
)

// htmlHighest is the greatest of the values that are numbers, or 0.
func htmlHighest(all ...[]float64) (top float64) {
	for _, vs := range all {
		for _, v := range vs {
			if v > top && !math.IsInf(v, 0) {
				top = v
			}
		}
	}
	return top
}

// htmlRange says in words what a line shows.
func htmlRange(name string, vs []float64, text func(float64) string) string {
	vs = slices.DeleteFunc(slices.Clone(vs), math.IsNaN)
	if len(vs) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s to %s, at the end %s. ", name, text(slices.MinFunc(vs, cmp.Compare[float64])), text(slices.Max(vs)), text(vs[len(vs)-1]))
}
