#!/bin/sh
# Does the golden test bite?  Each row below makes one known mistake in a copy of the forward
# pass -- one sed edit, the tree's own files stay clean -- builds ref.so from it, and golden
# must fail on at least one checkpoint (or conformance, where golden data cannot tell).  An edit that changes nothing fails too: then the
# source has moved on and the row has to follow.
#
#   name | file in backends/graph | sed script
mutants() { cat <<'EOF'
w2 transposed|ops.c|s/dequant(row, l->w2.data, l->w2.dtype, at, d);/for (uint32_t i = 0; i < d; i++) dequant(row + i, l->w2.data, l->w2.dtype, e * ffn * d + (size_t)i * ffn + r, 1);/
GGUF's w2 read as Hugging Face's|ops.c|s/m->w2_layout == DBRX_W2_MODEL_ROWS/0/
v not clamped|ops.c|s/i < stride; i++)$/i < n_rot * head_dim; i++)/
no clamp|ops.c|s/if (clip > 0) /if (0) /
clamp after RoPE|ops.c|s/for (uint32_t i = 0; i < stride; i++)$/for (uint32_t i = n_rot * head_dim; i < stride; i++)/; s/\([ab]\[i\]\) = \([uv] \* .*\);/\1 = clip > 0 ? fmaxf(-clip, fminf(clip, \2)) : \2;/
k not clamped|ops.c|s/i < stride; i++)$/i < stride; i++) if (i + 2 * (stride - n_rot * head_dim) < stride || i >= n_rot * head_dim)/
RMSNorm for LayerNorm|ops.c|s|^        mean /= d;|        mean = 0;|
eps outside the root|ops.c|s|1 / sqrt(var / d + eps)|1 / (sqrt(var / d) + eps)|
eps 1e-6|ops.c|s|var / d + eps|var / d + eps / 10|
variance by n - 1|ops.c|s|var / d + eps|var / (d - 1) + eps|
wrong GQA grouping|ops.c|s|(h / group)|(h % a->n_kv_heads)|
interleaved RoPE|ops.c|s|\*b = a + half;|*b = a + 1;|; s|= a\[i\], v = b\[i\];|= a[2 * i], v = b[2 * i];|; s|a\[i\] = u \*|a[2 * i] = u *|; s|b\[i\] = v \*|b[2 * i] = v *|
RoPE turns the other way|ops.c|s|u \* cs\[i\]\[0\] - v \* cs\[i\]\[1\]|u * cs[i][0] + v * cs[i][1]|; s|v \* cs\[i\]\[0\] + u \* cs\[i\]\[1\]|v * cs[i][0] - u * cs[i][1]|
k not rotated|graph.c|s|c->n_heads + c->n_kv_heads, hd,|c->n_heads, hd,|
v rotated too|graph.c|s|c->n_heads + c->n_kv_heads, hd,|c->n_heads + 2 * c->n_kv_heads, hd,|
rope_theta fixed at 10000|graph.c|s|powf(c->rope_theta,|powf(10000,|
rope_theta fixed at 500000|graph.c|s|powf(c->rope_theta,|powf(500000,|
positions restart with each call|graph.c|s|float angle = (float)(pos + t)|float angle = (float)t|
positions off by one|graph.c|s|rope_angles(c, p->pos, n|rope_angles(c, p->pos + 1, n|
attention scale 1/hd|ops.c|s|/ sqrt(hd))|/ hd)|
attention scale by d_model|ops.c|s|/ sqrt(hd))|/ sqrt(hd * a->n_heads))|
attention not causal|ops.c|s|len = a->pos + t + 1;|len = a->pos + a->n;|
attention misses itself|ops.c|s|len = a->pos + t + 1;|len = a->pos + t + (a->pos + t == 0);|
gelu by tanh|ops.c|s|0.5f \* x \* (1 + erff(x \* 0.70710678f))|0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)))|
gelu for silu|ops.c|s|act_fn == DBRX_GELU ?|act_fn <= DBRX_GELU ?|
silu for gelu|ops.c|s|act_fn == DBRX_GELU ?|act_fn > DBRX_GELU ?|
w1 and v1 swapped|ops.c|s/dequant(row, l->w1.data/dequant(row, l->v1.data/; t; s/dequant(row, l->v1.data/dequant(row, l->w1.data/
softmax after top-k|route.c|/^    if (max == -INFINITY)/ i\    for (uint32_t e = 0; e < n; e++) {\n        uint32_t above = 0;\n        for (uint32_t i = 0; i < n; i++)\n            above += logit[i] > logit[e];\n        if (above >= k)\n            prob[e] = -INFINITY;\n    }
normalisation missing|route.c|s/c->moe_norm_p > 0 && norm > 0/0/
L2 for L1|route.c|s/c->moe_norm_p == 1 ? weight\[j\] : powf(weight\[j\], c->moe_norm_p)/weight[j] * weight[j]/; s/c->moe_norm_p == 1 ? norm : .*$/sqrtf(norm);/
normalised twice over all|route.c|s/prob\[e\] \/= sum;/prob[e] \/= sum * sum;/
experts not weighted|ops.c|s/sum\[i\] += weight \* out\[i\];/sum[i] += out[i];/
smallest p chosen|route.c|s/prob\[e\] > prob\[best\]/prob[e] < prob[best]/
one expert too few|route.c|s/^    return s && s->top_k .*$/    (void)s, (void)layer; return c->top_k > 1 ? c->top_k - 1 : 1;/
attention not added|graph.c|s|op->add(&s->work, s->x, s->qkv, n, d);|memcpy(s->x, s->qkv, sizeof *s->x * n * d);|
norm_1 used twice|graph.c|s/m->norm_2 + /m->norm_1 + /
final norm without weight|graph.c|s/s->h, x, m->norm_f,/s->h, x, m->norm_1,/
head tied to the embedding|graph.c|s/&m->lm_head, n,/\&m->embed, n,/
tie to the higher id|route.c|s/prob\[e\] > prob\[best\]/prob[e] >= prob[best]/
lightest expert first|route.c|s/weight\[j\] > weight\[j - 1\] ||/weight[j] < weight[j - 1] ||/
L2 norm ignored|route.c|s/c->moe_norm_p == 1/c->moe_norm_p > 0/g
no norm ignored|route.c|s/c->moe_norm_p > 0 \&\& norm > 0/norm > 0/; s/c->moe_norm_p == 1/1/g
equal weights, higher id first|route.c|s/expert\[j\] < expert\[j - 1\]/expert[j] > expert[j - 1]/
OMIT after normalising|route.c|s/weight\[j\] = omit ? 0 : prob\[expert\[j\]\];/(void)omit, weight[j] = prob[expert[j]];/; s/weight\[j\] \*= AT(.*);/weight[j] *= AT(c, s, mark, layer, expert[j], 0) \& DBRX_STEER_OMIT ? 0 : AT(c, s, scale, layer, expert[j], 1);/
SKIP before the softmax|route.c|s/prob\[e\] = logit\[source(c, s, layer, e)\] + AT(c, s, bias, layer, e, 0);/prob[e] = AT(c, s, mark, layer, e, 0) \& DBRX_STEER_SKIP ? -INFINITY : logit[source(c, s, layer, e)] + AT(c, s, bias, layer, e, 0);/
a banned expert can be chosen|route.c|s/int out = AT(c, s, bias, layer, e, 0) == -INFINITY ||/int out =/
one layer not checked|route.c|s/s \&\& l < c->n_layers/s \&\& l + 1 < c->n_layers/
prob always given|graph.c|s/sink->want & DBRX_ROUTE_PROB ? s->prob : NULL/s->prob/
stopped half-way, counted whole|graph.c|s/^            return DBRX_STOPPED;/            return s->pos += n, DBRX_STOPPED;/
an error keeps the batch|graph.c|s/^    if (st < 0)$/    if (0)/
full is not noticed by one|check.c|s/b->n_tokens > max_pos - pos/b->n_tokens > max_pos - pos + 1/
import forgets the first position|session.c|s/import_rows(s, s->k + at, b->k, b->dtype, b->n, w);/import_rows(s, s->k + at + 4 * w, (const char *)b->k + w * (b->dtype ? 2 : 4), b->dtype, b->n - 1, w);/
subnormal F16 lost|dequant.c|s/f = (float)man \* 0x1p-24f;/f = 0;/
BF16 read as F16|dequant.c|s/\[DBRX_BF16\] = bf16/[DBRX_BF16] = f16/
EOF
}

tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/backends/graph" "$tmp/out"
cp "$srcdir"/backends/graph/*.[ch] "$tmp/backends/graph/" || exit 99
cflags="-O1 -fPIC -fvisibility=hidden -w -I$tmp -I$srcdir -I$builddir"

for f in "$tmp"/backends/graph/*.c "$srcdir/backends/ref/ref.c"; do
    $CC $cflags -c "$f" -o "$tmp/$(basename "$f" .c).o" || { echo "Bail out! $f"; exit 99; }
done

# link [MUTANT.o REPLACED.o]: ref.so of the original objects, one of them replaced
link() {
    objects=$(ls "$tmp"/*.o)
    test -z "$1" || objects="$(echo "$objects" | grep -v "/$2\$") $1"
    rm -f "$tmp/ref.so"
    $CC -shared -o "$tmp/ref.so" $objects -lm
}

# golden REL: it passes on every checkpoint
golden() {
    for dir in "$srcdir"/tests/data/tiny-*; do
        timeout 60 "$builddir/tests/golden/golden" "$tmp/ref.so" "$dir" --logits "$1" \
            >"$tmp/log" 2>&1 || { why="${dir##*/} case $(failed)"; return 1; }
    done
}

conformance() {
    timeout 60 "$builddir/tests/conformance/conformance" "$tmp/ref.so" >"$tmp/log" 2>&1 ||
        { why="conformance $(failed)"; return 1; }
}

failed() { grep -m1 -E '^not ok|^Bail' "$tmp/log" | sed 's/^not ok [0-9]* - //; s/.* case //'; }

# What no golden file can show -- ties, which the reference leaves open; absolute positions,
# which RoPE cancels; norms no published checkpoint uses; steering -- conformance must see.
survives() { golden 1e-4 && golden 2e-6 && conformance; }

n=1
link && survives && echo "ok 1 - unchanged sources pass" || echo "not ok 1 - unchanged sources: $why"
mutants >"$tmp/table"
while IFS='|' read -r name file script; do
    n=$((n + 1))
    sed "$script" "$srcdir/backends/graph/$file" >"$tmp/out/$file"
    if cmp -s "$srcdir/backends/graph/$file" "$tmp/out/$file"; then
        echo "not ok $n - $name: the edit no longer changes $file"
    elif ! $CC $cflags -c "$tmp/out/$file" -o "$tmp/out/m.o" 2>"$tmp/log"; then
        echo "not ok $n - $name: does not compile"
        sed 's/^/# /' "$tmp/log"
    else
        link "$tmp/out/m.o" "${file%.c}.o"
        if survives; then
            echo "not ok $n - $name: nothing noticed"
        else
            echo "ok $n - $name: caught ($why)"
        fi
    fi
done <"$tmp/table"
echo "1..$n"
