/* repl/beam.c -- see beam.h.  The search knows no backend: it asks `look` for the scores
 * after a beam's tokens, which moves the session there. */
#include "repl/beam.h"

#include "plugins/fail.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* a continuation: still open, or ended (then its score is the one with length_penalty) */
struct beam {
    int32_t *token;                        /* [n], room for max_new */
    uint32_t n;
    double   score;
    uint32_t ended;                        /* its last token is an eos, or nothing can follow */
    int      out;                          /* no longer open: it is complete, or nothing fits */
};

struct cand { float score; uint32_t beam; int32_t id; };

struct search {
    struct sess *s;
    const struct beam_params *p;
    const struct sess_gen *g;
    struct sampler_params sampling;
    uint32_t n_prompt, max_new;

    struct beam *open, *next, *done;       /* [num_beams], [num_beams], [num_beams + 1] */
    uint32_t n_open, n_done;
    double   worst;                        /* score in done, 1e9 while there is none    */
    struct cand *cand;                     /* [n_keep], best first                      */
    uint32_t n_cand, n_keep;
    float   *score;                        /* [n_vocab]                                 */
    size_t   said;                         /* where the constraint was at the prompt    */
    struct dbrx_error stuck;               /* why nothing fits behind a beam; code 0: never */
    int32_t *memory;                       /* all the tokens                            */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void search_free(struct search *b)
{
    free(b->open);
    free(b->next);
    free(b->done);
    free(b->cand);
    free(b->score);
    free(b->memory);
}

static dbrx_status search_init(struct search *b, struct dbrx_error *err)
{
    size_t k = b->p->num_beams, at = 0;
    b->n_keep = (b->g->n_eos > 1 ? 1 + b->g->n_eos : 2) * b->p->num_beams;
    b->open = calloc(k, sizeof *b->open);
    b->next = calloc(k, sizeof *b->next);
    b->done = calloc(k + 1, sizeof *b->done);
    b->cand = malloc(b->n_keep * sizeof *b->cand);
    b->score = malloc(b->s->n_vocab * sizeof *b->score);
    b->memory = malloc((3 * k + 1) * b->max_new * sizeof *b->memory);
    if (!b->open || !b->next || !b->done || !b->cand || !b->score || !b->memory)
        return fail(err, DBRX_E_NOMEM, "out of memory for %u beams of %u tokens", b->p->num_beams, b->max_new);
    for (size_t i = 0; i < 3 * k + 1; i++, at += b->max_new)
        (i < k ? &b->open[i] : i < 2 * k ? &b->next[i - k] : &b->done[i - 2 * k])->token = b->memory + at;
    b->n_open = 1;                         /* the empty continuation */
    b->worst = 1e9;
    return DBRX_OK;
}

static void copy(struct beam *to, const struct beam *from)
{
    memcpy(to->token, from->token, from->n * sizeof *to->token);
    to->n = from->n;
    to->score = from->score;
    to->ended = from->ended;
    to->out = 0;
}

/* The timeline becomes the prompt and this beam; what is there already stays */
static dbrx_status move_to(struct search *b, const struct beam *to, struct dbrx_error *err)
{
    struct sess *s = b->s;
    uint32_t same = 0;
    while (same < to->n && b->n_prompt + same < s->n && s->token[b->n_prompt + same] == to->token[same])
        same++;
    sess_truncate(s, b->n_prompt + same);
    return sess_append(s, to->token + same, to->n - same, err);
}

static void log_softmax(const float *logits, float *out, uint32_t n)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    for (uint32_t i = 0; i < n; i++)
        sum += isnan(logits[i]) ? 0 : exp(logits[i] - top);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)(logits[i] - top - log(sum));
}

/* The constraint goes where this beam leads; what may follow: banned, NULL without one.
 * The beam is out if it is complete, or if no token fits. */
static dbrx_status constrain(struct search *b, struct beam *beam, const uint8_t **banned, struct dbrx_error *err)
{
    struct constraint *c = b->g->constraint;
    dbrx_status st = DBRX_OK;
    *banned = NULL;
    if (!c)
        return st;
    constraint_rewind(c, b->said);
    for (uint32_t i = 0; i < beam->n && st == DBRX_OK; i++)
        st = constraint_accept(c, beam->token[i], err);
    if (st != DBRX_OK)
        return st;
    beam->out = (int)(beam->ended = (uint32_t)constraint_complete(c));
    if (!beam->ended && (st = constraint_mask(c, banned, &b->stuck)) == DBRX_E_UNSUPPORTED)
        beam->out = 1;
    else if (st != DBRX_OK)
        *err = b->stuck;
    return beam->out ? DBRX_OK : st;
}

/* Log probabilities after this beam, processed, into b->score */
static dbrx_status look(struct search *b, struct beam *beam, struct dbrx_error *err)
{
    struct sess *s = b->s;
    const uint8_t *banned;
    dbrx_status st = constrain(b, beam, &banned, err);
    if (st != DBRX_OK || beam->out)
        return st;
    st = move_to(b, beam, err);
    if (st == DBRX_OK)
        st = sess_sync(s, err);
    if (st != DBRX_OK)
        return st;
    const struct sampler_history h = { s->token, s->n, b->g->reply ? b->g->reply : b->n_prompt };
    log_softmax(s->logits, b->score, s->n_vocab);
    sampler_mask(s->sampler, banned);
    sampler_process(s->sampler, &b->sampling, &h, b->score);
    sampler_mask(s->sampler, NULL);
    return DBRX_OK;
}

/* Among the n_keep best of all beams: the earlier beam, then the lower id, of equals first */
static void offer(struct search *b, struct cand c)
{
    if (!(c.score > -INFINITY) || (b->n_cand == b->n_keep && !(c.score > b->cand[b->n_keep - 1].score)))
        return;
    uint32_t i = b->n_cand < b->n_keep ? b->n_cand++ : b->n_keep - 1;
    for (; i && c.score > b->cand[i - 1].score; i--)
        b->cand[i] = b->cand[i - 1];
    b->cand[i] = c;
}

static int is_eos(const struct sess_gen *g, int32_t id)
{
    for (uint32_t i = 0; i < g->n_eos; i++)
        if (g->eos[i] == id)
            return 1;
    return 0;
}

/* An ended continuation, or at the end of all an open one: kept if among the num_beams best */
static void finish(struct search *b, const struct beam *from, const struct cand *eos)
{
    uint32_t n = from->n + (eos != NULL), worst = 0;
    double score = (eos ? (double)eos->score : from->score) / pow(n, b->p->length_penalty);
    if (b->n_done == b->p->num_beams && !(score > b->worst))
        return;
    struct beam *d = &b->done[b->n_done++];
    copy(d, from);
    if (eos)
        d->token[d->n++] = eos->id;
    d->score = score;
    d->ended = eos || from->ended;
    if (b->n_done > b->p->num_beams) {     /* the worst goes, of equals the older one */
        for (uint32_t i = 1; i < b->n_done; i++)
            if (b->done[i].score < b->done[worst].score)
                worst = i;
        struct beam gone = b->done[worst];
        memmove(&b->done[worst], &b->done[worst + 1], (--b->n_done - worst) * sizeof *b->done);
        b->done[b->n_done] = gone;         /* its room is used again */
    }
    b->worst = b->done[0].score;
    for (uint32_t i = 1; i < b->n_done; i++)
        b->worst = b->done[i].score < b->worst ? b->done[i].score : b->worst;
}

/* One token further.  Leaves the open beams of the next step; 1: the search is over */
static int step(struct search *b)
{
    uint32_t n = 0, len = b->open[0].n + 1;
    for (uint32_t rank = 0; rank < b->n_cand && n < b->p->num_beams; rank++) {
        const struct cand *c = &b->cand[rank];
        const struct beam *from = &b->open[c->beam];
        if (is_eos(b->g, c->id)) {
            if (rank < b->p->num_beams)
                finish(b, from, c);
            continue;
        }
        copy(&b->next[n], from);
        b->next[n].token[b->next[n].n++] = c->id;
        b->next[n++].score = c->score;
    }
    struct beam *was = b->open;
    b->open = b->next;
    b->next = was;
    b->n_open = n;
    if (!n)
        return 1;
    if (b->n_done < b->p->num_beams)
        return 0;
    if (b->p->early_stopping == BEAM_STOP_TRUE)
        return 1;
    /* what the best open one can still reach */
    if (b->p->early_stopping == BEAM_STOP_NEVER && b->p->length_penalty > 0)
        len = b->max_new;
    return b->worst >= b->cand[0].score / pow(len, b->p->length_penalty);
}

/* Searches; afterwards the replies are in done */
static dbrx_status run(struct search *b, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    int over = 0;
    while (st == DBRX_OK && !over && b->open[0].n < b->max_new) {
        b->n_cand = 0;
        for (uint32_t i = 0; i < b->n_open && st == DBRX_OK; i++) {
            st = look(b, &b->open[i], err);
            if (b->open[i].ended)          /* nothing is missing: no eos, and none to pay for */
                finish(b, &b->open[i], NULL);
            for (uint32_t id = 0; st == DBRX_OK && !b->open[i].out && id < b->s->n_vocab; id++)
                offer(b, (struct cand){ b->score[id] + (float)b->open[i].score, i, (int32_t)id });
        }
        if (st != DBRX_OK)
            break;
        if (!b->n_cand && !b->n_done && b->stuck.code) {
            *err = b->stuck;
            return DBRX_E_UNSUPPORTED;
        }
        if (!b->n_cand && !b->n_done && !b->open[0].n) {
            int32_t why = SAMPLER_NO_NUMBER;
            for (uint32_t i = 0; i < b->s->n_vocab; i++)
                why = b->s->logits[i] > -INFINITY ? SAMPLER_NONE_LEFT : why;
            return sess_no_candidate(why, err);
        }
        if (!b->n_cand)                    /* all beams are stuck: what there is counts */
            break;
        over = step(b);
    }
    const uint8_t *banned;
    for (uint32_t i = 0; i < b->n_open && !over; i++)
        if (!b->open[i].out && b->open[i].n && constrain(b, &b->open[i], &banned, err) >= 0)
            finish(b, &b->open[i], NULL);
    return st;
}

/* The reply goes on the timeline, token by token; then it is evaluated once more in one go,
 * which traces its routes and gives the logits to go on from */
static dbrx_status tell(struct search *b, const struct beam *best, enum sess_finish *why,
                        struct dbrx_error *err)
{
    struct sess *s = b->s;
    dbrx_status st = DBRX_OK;
    sess_truncate(s, b->n_prompt);
    for (uint32_t i = 0; i < best->n && st == DBRX_OK; i++) {
        st = b->g->constraint ? constraint_accept(b->g->constraint, best->token[i], err) : DBRX_OK;
        st = st == DBRX_OK ? sess_append(s, &best->token[i], 1, err) : st;
        int stop = st == DBRX_OK && b->g->on_token ? b->g->on_token(b->g->ctx, best->token[i], s->n - 1)
                                                   : SESS_GO_ON;
        if (stop) {
            *why = stop == SESS_ENOUGH ? SESS_STOP_STRING : SESS_STOPPED;
            return DBRX_OK;
        }
    }
    s->generating = 1;
    st = st == DBRX_OK ? sess_sync(s, err) : st;
    s->generating = 0;
    return st;
}

dbrx_status beam_generate(struct sess *s, const struct beam_params *p, const struct sess_gen *g,
                          enum sess_finish *why, double *score, struct dbrx_error *err)
{
    *why = SESS_FAILED;
    if (!s->n)
        return fail(err, DBRX_E_INVALID, "there is nothing to continue: the conversation is empty");
    dbrx_status st = sess_sync(s, err);
    struct sess_stats prompt = s->last, total = s->total;
    uint32_t room = disp_max_pos(s->disp) - s->n;
    double t0 = now();
    struct search b = {
        .s = s, .p = p, .g = g, .sampling = g->sampling, .n_prompt = s->n,
        .max_new = g->max_tokens && g->max_tokens < room ? g->max_tokens : room,
        .said = g->constraint ? constraint_said(g->constraint) : 0,
    };
    b.sampling.eos = g->eos;
    b.sampling.n_eos = g->n_eos;
    int complete = g->constraint && constraint_complete(g->constraint);
    *why = complete ? SESS_EOS : g->max_tokens && b.max_new == g->max_tokens ? SESS_MAX_TOKENS : SESS_CONTEXT_FULL;
    if (st == DBRX_OK && b.max_new && !complete) {
        int aside = s->aside;
        st = search_init(&b, err);
        s->aside = 1;                      /* beams are no conversation, what comes of them is */
        st = st == DBRX_OK ? run(&b, err) : st;
        s->aside = aside;
    }
    const struct beam *best = NULL;        /* of equals the later one, as transformers has it */
    for (uint32_t i = 0; i < b.n_done && st >= 0; i++)
        best = !best || b.done[i].score >= best->score ? &b.done[i] : best;
    int stopped = st == DBRX_STOPPED;
    if (best && best->ended)
        *why = SESS_EOS;
    if (score)
        *score = best ? best->score : 0;
    if (g->constraint)
        constraint_rewind(g->constraint, b.said);
    if (best)
        st = tell(&b, best, why, err);
    else
        sess_truncate(s, b.n_prompt);
    if (st < 0)
        *why = SESS_FAILED;
    else if (stopped || st == DBRX_STOPPED)
        *why = SESS_STOPPED;
    uint32_t made = s->n - b.n_prompt;
    search_free(&b);
    s->last = prompt;                      /* all of it counts as generation */
    s->total = total;
    s->last.gen_tokens = made;
    s->last.gen_s = now() - t0;
    s->total.gen_tokens += made;
    s->total.gen_s += s->last.gen_s;
    return st < 0 ? st : DBRX_OK;
}
