# plot.awk - draws the loss of a run from its metrics.jsonl, as text (default) or as SVG (-v svg=1).
#     awk -f plot.awk metrics.jsonl            awk -v svg=1 -f plot.awk metrics.jsonl > loss.svg
# Training loss is averaged within each column; validation losses are single points. Both axes are linear in the
# step and logarithmic in the loss, because the loss falls by a factor of a hundred.

function field(name,    at, rest) {
    at = match($0, "\"" name "\": *-?[0-9.]+([eE][-+]?[0-9]+)?")
    if (!at) return ""
    rest = substr($0, RSTART, RLENGTH)
    sub(/^[^:]*: */, "", rest)
    return rest + 0
}

{
    s = field("step"); l = field("loss"); v = field("val_loss")
    if (s == "") next
    if (l != "" && l > 0) { n++; step[n] = s; loss[n] = l }
    if (v != "" && v > 0) { nv++; vstep[nv] = s; vloss[nv] = v }
    if (s > last) last = s
}

function note_range(x) { if (lo == "" || x < lo) lo = x; if (hi == "" || x > hi) hi = x }

END {
    if (n == 0 || last == 0) { print "plot: no losses in the input" > "/dev/stderr"; exit 1 }
    if (svg) { columns = 140 } else { columns = 64 }
    for (i = 1; i <= n; i++) { c = int((step[i] - 1) * columns / last); if (c < 0) c = 0; if (c >= columns) c = columns - 1; sum[c] += loss[i]; count[c]++ }
    for (c = 0; c < columns; c++) if (count[c]) note_range(log(sum[c] / count[c]))
    for (i = 1; i <= nv; i++) note_range(log(vloss[i]))
    if (hi - lo < 1e-6) hi = lo + 1e-6
    if (svg) draw_svg(); else draw_text()
}

function draw_text(    rows, r, c, row, line) {
    rows = 12
    for (c = 0; c < columns; c++) if (count[c]) at_row[c] = int((hi - log(sum[c] / count[c])) / (hi - lo) * (rows - 1) + 0.5)
    for (i = 1; i <= nv; i++) { c = int((vstep[i] - 1) * columns / last); v_row[c] = int((hi - log(vloss[i])) / (hi - lo) * (rows - 1) + 0.5); has_v[c] = 1 }
    for (r = 0; r < rows; r++) {
        line = ""
        for (c = 0; c < columns; c++) line = line ((has_v[c] && v_row[c] == r) ? "o" : (count[c] && at_row[c] == r) ? "*" : " ")
        printf "%9.4f |%s\n", exp(hi - (hi - lo) * r / (rows - 1)), line
    }
    line = ""
    for (c = 0; c < columns; c++) line = line "-"
    printf "%9s +%s\n%9s  step 1%*d      * training loss   o validation loss\n", "", line, "", columns - 6, last
}

function sx(s) { return 70 + (s - 1) / (last > 1 ? last - 1 : 1) * 650 }
function sy(x) { return 30 + (hi - log(x)) / (hi - lo) * 300 }

function draw_svg(    c, e, m, path, points) {
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 400\" font-family=\"sans-serif\" font-size=\"13\">"
    print "<rect width=\"760\" height=\"400\" fill=\"white\"/>"
    for (e = -4; e <= 1; e++) for (m = 1; m <= 5; m += (m == 2 ? 3 : 1)) {
        c = m * exp(e * log(10))
        if (log(c) >= lo && log(c) <= hi)
            printf "<path d=\"M70 %.1fH720\" stroke=\"#ddd\"/><text x=\"62\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", sy(c), sy(c) + 4, c
        }
    for (c = 0; c < columns; c++) if (count[c]) points = points sprintf(" %.1f,%.1f", sx((c + 0.5) * last / columns), sy(sum[c] / count[c]))
    print "<polyline fill=\"none\" stroke=\"#27c\" stroke-width=\"1.5\" points=\"" substr(points, 2) "\"/>"
    for (i = 1; i <= nv; i++) printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"#d52\"/>\n", sx(vstep[i]), sy(vloss[i])
    print "<path d=\"M70 30V330H720\" fill=\"none\" stroke=\"black\"/>"
    printf "<text x=\"70\" y=\"350\">1</text><text x=\"720\" y=\"350\" text-anchor=\"end\">%d</text>\n", last
    print "<text x=\"395\" y=\"350\" text-anchor=\"middle\">step</text>"
    print "<text x=\"250\" y=\"385\" fill=\"#27c\">training loss</text><text x=\"420\" y=\"385\" fill=\"#d52\">validation loss</text>"
    print "</svg>"
}
