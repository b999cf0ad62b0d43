/* The first process of every pod: it holds the pod's namespaces until somebody ends it. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    /* Pods whose containers share one process namespace leave their orphans to this process. */
    signal(SIGCHLD, SIG_IGN);
    for (;;) pause();
}
