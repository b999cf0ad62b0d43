/* The kernel's own price of a sidecar: copies bytes through the same capture as the proxies of the bench, and does
 * nothing else. One thread and edge-triggered epoll, so that the kernel is asked for nothing that carrying does not
 * need: for a message that is one wait (often shared with other messages), one read and one write.
 *
 * Outbound (15001) and inbound (15006) are the same here: what iptables redirected is dialled where it was going.
 * floor's own packets must not be redirected in turn, so it runs as the user and the group that heddle-init leaves
 * alone (1337). */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, whose headers of Linux do not compile beside those of the C library. */
    ORIGINAL_DESTINATION = 80,
    OUTBOUND_PORT = 15001,
    INBOUND_PORT = 15006,
    BACKLOG = 4096,
    BUFFER_SIZE = 64 << 10, /* bytes that are read at a time */
    MOST_EVENTS = 256,      /* that one wait returns */
    TURN = 16,              /* buffers that one direction carries before the others get their turn */
    OUT_OF_FILES_US = 10000 /* rest before the next connection is accepted when no more can be open */
};

/* One socket, and those of its bytes that its peer has not taken yet. */
struct side {
    struct pair *pair; /* none: it listens */
    char *rest;        /* none while the peer keeps up, so that an idle pair holds no buffer */
    size_t rest_length, rest_sent;
    int fd;
    char readable, writable; /* as far as we know; asking finds out */
    char hung_up;            /* its end is on the way: read on until it comes */
    char ended;              /* it came, and was passed on */
};

struct pair {
    struct side client, server;
    struct pair *next_dead;
    char dead;
};

static char buffer[BUFFER_SIZE];
static int poller;
static struct pair *dead_pairs; /* events of the same wait may still name them */

static void die(const char *what) {
    perror(what);
    exit(1);
}

static struct side *peer_of(struct side *side) {
    struct pair *pair = side->pair;
    return side == &pair->client ? &pair->server : &pair->client;
}

/* For a side that is watched already: looks again, and queues what it sees behind what is queued. */
static int watch(int operation, struct side *side) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = side};
    return epoll_ctl(poller, operation, side->fd, &event);
}

/* Makes the coming close a reset, so that a broken stream never looks like a whole one. */
static void reset_on_close(int fd) {
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

static void end(struct pair *pair, int broken) {
    struct side *sides[] = {&pair->client, &pair->server};
    for (int i = 0; i < 2; i++) {
        if (broken) reset_on_close(sides[i]->fd);
        close(sides[i]->fd);
        free(sides[i]->rest);
    }
    pair->dead = 1;
    pair->next_dead = dead_pairs;
    dead_pairs = pair;
}

static void bury_the_dead(void) {
    while (dead_pairs) {
        struct pair *pair = dead_pairs;
        dead_pairs = pair->next_dead;
        free(pair);
    }
}

/* Writes to a side; how much it took, which is less than all only if it is full now. */
static ssize_t offer(struct side *to, const char *bytes, size_t length) {
    ssize_t taken = write(to->fd, bytes, length);
    if (taken < 0 && errno != EAGAIN) return -1;
    if (taken < 0) taken = 0;
    if ((size_t)taken < length) to->writable = 0;
    return taken;
}

/* Writes what was left over. */
static int deliver_rest(struct side *from, struct side *to) {
    ssize_t taken = offer(to, from->rest + from->rest_sent, from->rest_length - from->rest_sent);
    if (taken < 0) return -1;
    from->rest_sent += taken;
    if (from->rest_sent < from->rest_length) return 0;
    free(from->rest);
    from->rest = NULL;
    return 0;
}

/* Writes what was just read, and keeps what is left over. */
static int deliver(struct side *from, struct side *to, size_t length) {
    ssize_t taken = offer(to, buffer, length);
    if (taken < 0) return -1;
    if ((size_t)taken == length) return 0;
    from->rest_length = length - taken;
    from->rest_sent = 0;
    from->rest = malloc(from->rest_length);
    if (!from->rest) return -1;
    memcpy(from->rest, buffer + taken, from->rest_length);
    return 0;
}

/* Carries what one side has to say, as far as both sides go. Negative: the pair is broken. */
static int carry(struct side *from) {
    struct side *to = peer_of(from);
    for (int turn = 0; turn < TURN; turn++) {
        if (!to->writable) return 0;
        if (from->rest) {
            if (deliver_rest(from, to) < 0) return -1;
            continue;
        }
        if (!from->readable || from->ended) return 0;
        ssize_t length = read(from->fd, buffer, BUFFER_SIZE);
        if (length < 0 && errno != EAGAIN) return -1;
        if (length == 0) {
            from->ended = 1;
            /* If it is the second end, closing says it. */
            return to->ended ? 0 : shutdown(to->fd, SHUT_WR);
        }
        /* Less than was asked for is all there is, but for an end that was told along with it. */
        if (length < 0 || (length < BUFFER_SIZE && !from->hung_up)) from->readable = 0;
        if (length > 0 && deliver(from, to, length) < 0) return -1;
    }
    return from->readable ? watch(EPOLL_CTL_MOD, from) : 0;
}

static void go_on(struct side *side, unsigned events) {
    struct pair *pair = side->pair;
    if (pair->dead) return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) side->readable = 1;
    if (events & (EPOLLRDHUP | EPOLLHUP)) side->hung_up = 1;
    if (events & EPOLLOUT) side->writable = 1;
    int broken = (events & EPOLLERR) || carry(side) < 0 || carry(peer_of(side)) < 0;
    if (broken || (pair->client.ended && pair->server.ended)) end(pair, broken);
}

/* Where a captured connection was going; nowhere, if somebody dialled floor itself. */
static int original_destination(int client, int family, struct sockaddr_storage *to, socklen_t *length) {
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
    if (getsockopt(client, level, ORIGINAL_DESTINATION, to, length) < 0) return -1;
    /* The port is at the same place in both families. */
    in_port_t port = ntohs(((struct sockaddr_in *)to)->sin_port);
    return port == OUTBOUND_PORT || port == INBOUND_PORT ? -1 : 0;
}

/* Begins to connect; the socket, or -1. */
static int dial(const struct sockaddr_storage *to, socklen_t length) {
    int fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (const struct sockaddr *)to, length) == 0 || errno == EINPROGRESS) return fd;
    close(fd);
    return -1;
}

static void take(int listener) {
    struct sockaddr_storage from, to;
    socklen_t length = sizeof from;
    int client = accept4(listener, (struct sockaddr *)&from, &length, SOCK_NONBLOCK);
    if (client < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) usleep(OUT_OF_FILES_US);
        return;
    }
    length = sizeof to;
    int server = original_destination(client, from.ss_family, &to, &length) < 0 ? -1 : dial(&to, length);
    struct pair *pair = server < 0 ? NULL : calloc(1, sizeof *pair);
    if (!pair) {
        reset_on_close(client);
        close(client);
        if (server >= 0) close(server);
        return;
    }
    pair->client = (struct side){.pair = pair, .fd = client, .writable = 1};
    pair->server = (struct side){.pair = pair, .fd = server};
    if (watch(EPOLL_CTL_ADD, &pair->client) < 0 || watch(EPOLL_CTL_ADD, &pair->server) < 0) end(pair, 1);
}

/* What is accepted here inherits TCP_NODELAY. */
static void listen_on(int family, int port) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    const struct sockaddr *address = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0 && family == AF_INET6 && errno == EAFNOSUPPORT) return;
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, address, family == AF_INET ? sizeof v4 : sizeof v6) < 0) die("bind");
    if (listen(fd, BACKLOG) < 0) die("listen");
    struct side *side = calloc(1, sizeof *side);
    if (!side) die("calloc");
    side->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = side};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

int main(void) {
    struct rlimit files;
    struct epoll_event events[MOST_EVENTS];
    const int families[] = {AF_INET, AF_INET6};
    if (getrlimit(RLIMIT_NOFILE, &files) < 0) die("getrlimit");
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    if (poller < 0) die("epoll_create1");
    for (int i = 0; i < 2; i++) {
        listen_on(families[i], OUTBOUND_PORT);
        listen_on(families[i], INBOUND_PORT);
    }
    for (;;) {
        int count = epoll_wait(poller, events, MOST_EVENTS, -1);
        if (count < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct side *side = events[i].data.ptr;
            if (side->pair) go_on(side, events[i].events);
            else take(side->fd);
        }
        bury_the_dead();
    }
}
