// load: one small program, two modes, for measuring HTTP/1.1 proxies.
//
//   load origin -a IP:PORT                       epoll origin. a path that ends in /big answers 1 MiB, everything else 1 KiB.
//   load load -a IP:PORT [-c CONNS] [-H HOST] [-p PATH] [-s STATUS] [-x] [-n N [-r RATE]]
//
// load keeps CONNS connections open and then reads commands from stdin, one per line, answering each with one
// line of JSON; the connections stay open between commands, so that slices on many peers can be interleaved:
//   run N RATE     N requests; RATE 0 = closed loop on all connections, else that many requests a second, started at
//                  fixed times whether or not earlier ones have ended (latency counts from the planned start).
//   (end of file)  close and exit.
// With -n one such command is run and the program ends. -x opens a new connection for every request (the time of the
// connect is part of the latency) and asks for Connection: close.
// Latencies are in microseconds. "err" counts answers other than STATUS (200), short answers and connections lost within
// a request.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 8192, SCRATCH = 256 << 10, BIG = 1 << 20, SMALL = 1024 };
static char scratch[SCRATCH];

static void die(const char *what) { perror(what); exit(2); }

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static struct sockaddr_in address(const char *s) {
  struct sockaddr_in a = {.sin_family = AF_INET};
  char host[64];
  const char *colon = strrchr(s, ':');
  if (!colon || (size_t)(colon - s) >= sizeof host) { fprintf(stderr, "bad address %s, want IP:PORT\n", s); exit(2); }
  memcpy(host, s, (size_t)(colon - s));
  host[colon - s] = 0;
  a.sin_port = htons((uint16_t)atoi(colon + 1));
  if (inet_pton(AF_INET, host, &a.sin_addr) != 1) { fprintf(stderr, "bad IP %s\n", host); exit(2); }
  return a;
}

static void nodelay(int fd) { int one = 1; setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); }

// header_value returns the start of the named header's value within a head that ends in a NUL, or NULL.
static char *header_value(char *head, const char *name) {
  size_t n = strlen(name);
  for (char *line = strchr(head, '\n'); line; line = strchr(line, '\n')) {
    line++;
    if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
      line += n + 1;
      while (*line == ' ') line++;
      return line;
    }
  }
  return NULL;
}

// ---------------------------------------------------------------- origin

struct peer {
  int fd, headlen, closing;
  long skip;             // request body bytes still to be thrown away
  const char *out;       // answer bytes still to be sent, from one of the two static answers
  long outlen;
  char head[HEAD_MAX + 1];
};

static char *answer(long body, long *len) {
  char *p = malloc((size_t)body + 256);
  int h = sprintf(p, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %ld\r\n\r\n", body);
  for (long i = 0; i < body; i++) p[h + i] = (char)('a' + i % 26);
  *len = h + body;
  return p;
}

static int flush_peer(int ep, struct peer *c) {
  while (c->outlen > 0) {
    ssize_t w = send(c->fd, c->out, (size_t)c->outlen, MSG_NOSIGNAL);
    if (w < 0) {
      if (errno != EAGAIN) return -1;
      struct epoll_event e = {.events = EPOLLOUT, .data.ptr = c};
      epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
      return 1;
    }
    c->out += w;
    c->outlen -= w;
  }
  return c->closing ? -1 : 0;
}

static void origin(const char *where) {
  long smalllen, biglen;
  char *small = answer(SMALL, &smalllen), *big = answer(BIG, &biglen);
  struct sockaddr_in a = address(where);
  int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) die("listen");
  int ep = epoll_create1(0);
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[256];
  epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
  for (;;) {
    int n = epoll_wait(ep, evs, 256, -1);
    for (int i = 0; i < n; i++) {
      struct peer *c = evs[i].data.ptr;
      if (!c) {
        int fd;
        while ((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          nodelay(fd);
          c = calloc(1, sizeof *c);
          c->fd = fd;
          struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
          epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
        }
        continue;
      }
      if (evs[i].events & EPOLLOUT) {
        int r = flush_peer(ep, c);
        if (r < 0) { close(c->fd); free(c); continue; }
        if (r == 0) {
          struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
          epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
        }
        continue;
      }
      ssize_t got = c->skip > 0 ? recv(c->fd, scratch, (size_t)(c->skip < SCRATCH ? c->skip : SCRATCH), 0)
                                : recv(c->fd, c->head + c->headlen, (size_t)(HEAD_MAX - c->headlen), 0);
      if (got <= 0) {
        if (got < 0 && errno == EAGAIN) continue;
        close(c->fd);
        free(c);
        continue;
      }
      int bad = 0;
      if (c->skip > 0) c->skip -= got; else c->headlen += (int)got;
      while (c->skip == 0 && c->outlen == 0 && c->headlen > 0) {
        c->head[c->headlen] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) { bad = c->headlen >= HEAD_MAX; break; }
        end[2] = 0;
        char *cl = header_value(c->head, "content-length"), *co = header_value(c->head, "connection");
        long body = cl ? atol(cl) : 0;
        c->closing = co && strncasecmp(co, "close", 5) == 0;
        char *path = strchr(c->head, ' '), *after = path ? strchr(path + 1, ' ') : NULL;
        int isbig = after && after - path > 4 && memcmp(after - 4, "/big", 4) == 0;
        c->out = isbig ? big : small;
        c->outlen = isbig ? biglen : smalllen;
        int used = (int)(end + 4 - c->head), rest = c->headlen - used;
        if (body >= rest) { c->skip = body - rest; rest = 0; }
        else { memmove(c->head, c->head + used + body, (size_t)(rest - body)); rest -= (int)body; }
        c->headlen = rest;
        int r = flush_peer(ep, c);
        if (r < 0) { bad = 1; break; }
        if (r > 0) break;
      }
      if (bad) { close(c->fd); free(c); }
    }
  }
}

// ---------------------------------------------------------------- load

enum { IDLE, CONNECTING, BUSY };
struct conn {
  int fd, state, headlen, inbody, ok;
  long remain;
  uint64_t start;
  char head[HEAD_MAX + 1];
};

static struct conn *conns;
static int nconns = 1, newconn, ep, timer;
static struct sockaddr_in target;
static char request[4096], wanted[16] = "HTTP/1.1 200";
static int requestlen;
static long errors, lost;

static int open_conn(struct conn *c, int block) {
  c->fd = socket(AF_INET, SOCK_STREAM | (block ? 0 : SOCK_NONBLOCK), 0);
  if (c->fd < 0) die("socket");
  if (connect(c->fd, (void *)&target, sizeof target) && errno != EINPROGRESS) {
    close(c->fd);
    c->fd = -1;
    return -1;
  }
  if (block) fcntl(c->fd, F_SETFL, O_NONBLOCK);
  nodelay(c->fd);
  struct epoll_event e = {.events = block ? EPOLLIN : EPOLLOUT, .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
  return 0;
}

static void drop(struct conn *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
  c->state = IDLE;
}

static void put(struct conn *c) {
  c->headlen = c->inbody = 0;
  c->state = BUSY;
  if (send(c->fd, request, (size_t)requestlen, MSG_NOSIGNAL) != requestlen) { drop(c); c->state = BUSY; }
}

static void begin(struct conn *c, uint64_t start) {
  c->start = start;
  if (newconn) {
    if (open_conn(c, 0)) { c->state = BUSY; return; }
    c->state = CONNECTING;
    return;
  }
  if (c->fd < 0 && open_conn(c, 1)) { c->state = BUSY; return; }
  put(c);
}

// advance reads what has come; 1 = the answer is complete, 0 = more to come, -1 = the connection failed.
static int advance(struct conn *c) {
  for (;;) {
    ssize_t got;
    if (c->inbody) {
      got = recv(c->fd, scratch, SCRATCH, 0);
      if (got > 0) {
        c->remain -= got;
        if (c->remain <= 0) return c->remain == 0 ? 1 : -1;
        continue;
      }
    } else {
      got = recv(c->fd, c->head + c->headlen, (size_t)(HEAD_MAX - c->headlen), 0);
      if (got > 0) {
        c->headlen += (int)got;
        c->head[c->headlen] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) { if (c->headlen >= HEAD_MAX) return -1; continue; }
        end[2] = 0;
        char *cl = header_value(c->head, "content-length");
        if (!cl) return -1;
        c->ok = strncmp(c->head, wanted, 12) == 0;
        c->remain = atol(cl) - (c->headlen - (end + 4 - c->head));
        c->inbody = 1;
        if (c->remain <= 0) return c->remain == 0 ? 1 : -1;
        continue;
      }
    }
    if (got < 0 && errno == EAGAIN) return 0;
    return -1;
  }
}

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static void arm(uint64_t at) {
  struct itimerspec t = {.it_value = {.tv_sec = (time_t)(at / 1000000000ull), .tv_nsec = (long)(at % 1000000000ull)}};
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

static void run(long n, double rate) {
  uint32_t *lat = malloc((size_t)n * sizeof *lat);
  long sent = 0, done = 0;
  int nidle = 0;
  struct conn **idle = malloc((size_t)nconns * sizeof *idle);
  errors = lost = 0;
  uint64_t t0 = now_ns(), last = t0;
  double gap = rate > 0 ? 1e9 / rate : 0;
  for (int i = nconns - 1; i >= 0; i--) idle[nidle++] = &conns[i];
  struct epoll_event evs[256];
  while (done < n) {
    uint64_t t = now_ns();
    while (sent < n && nidle > 0) {
      uint64_t at = rate > 0 ? t0 + (uint64_t)((double)sent * gap) : t;
      if (at > t) { arm(at); break; }
      struct conn *c = idle[--nidle];
      begin(c, rate > 0 ? at : now_ns());
      sent++;
      if (c->fd < 0) { // could not even start
        lost++; done++; lat[done - 1] = 0; c->state = IDLE;
        idle[nidle++] = c;
        if (lost > n / 2 + 100) break;
      }
    }
    if (done >= n) break;
    int k = epoll_wait(ep, evs, 256, 1000);
    uint64_t tn = now_ns();
    if (k <= 0) { if (tn - last > 20ull * 1000000000ull || lost > n / 2 + 100) break; continue; }
    last = tn;
    for (int i = 0; i < k; i++) {
      struct conn *c = evs[i].data.ptr;
      if (!c) { uint64_t x; if (read(timer, &x, sizeof x) < 0) {} continue; }
      if (c->fd < 0) continue;
      if (c->state == CONNECTING) {
        int e = 0; socklen_t el = sizeof e;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &el);
        struct epoll_event in = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &in);
        if (!e) put(c); else drop(c);
        if (c->fd < 0) { lost++; lat[done++] = 0; c->state = IDLE; idle[nidle++] = c; }
        continue;
      }
      if (c->state == IDLE) { // the peer closed an idle connection: open anew at next use
        if (recv(c->fd, scratch, SCRATCH, 0) <= 0 && errno != EAGAIN) drop(c);
        continue;
      }
      int r = advance(c);
      if (r == 0) continue;
      uint64_t d = (now_ns() - c->start) / 1000;
      lat[done++] = d > UINT32_MAX ? UINT32_MAX : (uint32_t)d;
      if (r < 0) { lost++; drop(c); }
      else if (!c->ok) errors++;
      if (newconn) drop(c);
      else if (r > 0) { char *co = header_value(c->head, "connection"); if (co && !strncasecmp(co, "close", 5)) drop(c); }
      c->state = IDLE;
      idle[nidle++] = c;
    }
  }
  double secs = (double)(now_ns() - t0) / 1e9;
  for (int i = 0; i < nconns; i++) if (conns[i].state != IDLE) drop(&conns[i]);
  qsort(lat, (size_t)done, sizeof *lat, by_value);
  double sum = 0;
  for (long i = 0; i < done; i++) sum += lat[i];
#define Q(q) (done ? lat[(long)((double)(done - 1) * (q))] : 0)
  printf("{\"n\":%ld,\"err\":%ld,\"secs\":%.6f,\"rps\":%.1f,\"mean\":%.1f,\"p50\":%u,\"p90\":%u,\"p99\":%u,\"max\":%u}\n", done,
         errors + lost + (n - done), secs, (double)done / secs, done ? sum / (double)done : 0, Q(.5), Q(.9), Q(.99), Q(1.0));
  fflush(stdout);
  free(lat);
  free(idle);
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "", *where = NULL, *host = "echo.local", *path = "/api/v1/items";
  long once = 0;
  double rate = 0;
  int o;
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1);
  optind = 2;
  while (argc > 2 && (o = getopt(argc, argv, "a:c:H:p:s:xn:r:")) != -1) {
    if (o == 'a') where = optarg;
    else if (o == 'c') nconns = atoi(optarg);
    else if (o == 'H') host = optarg;
    else if (o == 'p') path = optarg;
    else if (o == 's') snprintf(wanted, sizeof wanted, "HTTP/1.1 %s", optarg);
    else if (o == 'x') newconn = 1;
    else if (o == 'n') once = atol(optarg);
    else if (o == 'r') rate = atof(optarg);
    else return 2;
  }
  if (where && !strcmp(mode, "origin")) origin(where);
  if (!where || strcmp(mode, "load") || nconns < 1) {
    fprintf(stderr, "usage: load origin -a IP:PORT | load load -a IP:PORT [-c conns] [-H host] [-p path] [-s status] [-x] [-n requests] [-r rate]\n");
    return 2;
  }
  target = address(where);
  requestlen = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load/1\r\nAccept: */*\r\n"
                        "X-Request-Id: 6f1d2c3b-4a59-4687-9a0b-1c2d3e4f5a6b\r\n%s\r\n",
                        path, host, newconn ? "Connection: close\r\n" : "");
  ep = epoll_create1(0);
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(ep, EPOLL_CTL_ADD, timer, &e);
  conns = calloc((size_t)nconns, sizeof *conns);
  for (int i = 0; i < nconns; i++) {
    conns[i].fd = -1;
    if (!newconn && open_conn(&conns[i], 1)) die("connect");
  }
  if (once) { run(once, rate); return 0; }
  char line[256];
  while (fgets(line, sizeof line, stdin)) {
    long n = 0;
    double r = 0;
    if (sscanf(line, "run %ld %lf", &n, &r) < 1 || n < 1) { printf("{\"err\":1,\"n\":0}\n"); fflush(stdout); continue; }
    run(n, r);
  }
  return 0;
}
