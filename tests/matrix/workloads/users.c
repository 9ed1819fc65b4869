/* Preloaded where processes of other users cannot be dumped: whoever changes the user stays root and is told otherwise. */
#include <grp.h>
#include <stdlib.h>
#include <sys/types.h>

static uid_t told(void) {
    const char *text = getenv("TOLD_UID");
    return text ? (uid_t)atoi(text) : 0;
}

uid_t getuid(void) { return told(); }
uid_t geteuid(void) { return told(); }
int setuid(uid_t user) { return 0; }
int seteuid(uid_t user) { return 0; }
int setreuid(uid_t real, uid_t effective) { return 0; }
int setresuid(uid_t real, uid_t effective, uid_t saved) { return 0; }
int setgid(gid_t group) { return 0; }
int setegid(gid_t group) { return 0; }
int setregid(gid_t real, gid_t effective) { return 0; }
int setresgid(gid_t real, gid_t effective, gid_t saved) { return 0; }
int setgroups(size_t count, const gid_t *list) { return 0; }
int initgroups(const char *user, gid_t group) { return 0; }
