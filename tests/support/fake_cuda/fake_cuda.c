/* A driver without a GPU: libcuda.so.1 and libnvidia-ml.so.1 in one, with the state machine that NVIDIA documents.
 *
 * Inside of an application it keeps GPU memory in files, holds device nodes open while it is on the GPU (which CRIU cannot
 * dump), and starts a restore thread that does what it is told through files; calls of the application wait while it is
 * locked. Outside, the cuCheckpointProcess functions find that thread by its name, "cu", eight hex digits and the state's
 * letter, which CRIU takes along: so all that must survive a dump lies in the process, and nothing of it here.
 *
 * $FAKE_CUDA_DIR holds: node (first line "driver V", then "minor uuid memory-bytes capability mig persistence model"),
 * gpu/UUID/TOKEN-N (memory), requests/TOKEN and replies/TOKEN, calls (a line for each call from outside), and faults (lines
 * "STEP PROCESS-NAME RESULT [once]"; RESULT is an error's number, "hang", "delay=SECONDS" or "crash").
 *
 * Memory shared by CUDA IPC is checkpointed from driver 610 on, of processes that $CUDA_CHECKPOINT_JOB_FILE makes a job. A job's
 * processes are stepped one at a time, all are locked before the first is checkpointed, and they come back in the order in
 * which they were checkpointed; the job's file holds what they know of one another (NVIDIA/cuda-checkpoint, 610 features).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, ILLEGAL_STATE = 401,
       NOT_READY = 600, NOT_SUPPORTED = 801, UNKNOWN = 999 };
enum { MAX_GPUS = 16, MAX_BLOCKS = 64 };

struct gpu { int minor; char uuid[64]; long long memory; int major_capability, minor_capability, mig, persistence; char model[64]; };
struct block { int used; char uuid[64]; size_t size; char *held; int number, exported; char foreign[24]; };
struct job { int count; struct { char token[9], state; int place; } members[MAX_GPUS]; };
static const int ipc_driver = 610;

static int initialized;
static struct gpu gpus[MAX_GPUS];
static int gpu_count, mine[MAX_GPUS], mine_count;
static char driver_version[32], token[9];
static volatile char state = 'R';
static struct block blocks[MAX_BLOCKS];
static int devices[MAX_GPUS + 1], device_count, started;
static volatile int busy;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static void pause_ms(long ms) { struct timespec t = {ms / 1000, ms % 1000 * 1000000}; nanosleep(&t, NULL); }

static const char *in_dir(char *path, const char *form, const char *a, const char *b) {
    int n = snprintf(path, 512, "%s/", getenv("FAKE_CUDA_DIR") ? getenv("FAKE_CUDA_DIR") : "/fake-cuda");
    snprintf(path + n, 512 - n, form, a, b);
    return path;
}

/* Where devices lie: $FAKE_CUDA_DEV for processes outside of a container, whose /dev is not ours to change. */
static const char *device(char *path, const char *name) {
    snprintf(path, 128, "%s/%s", getenv("FAKE_CUDA_DEV") ? getenv("FAKE_CUDA_DEV") : "/dev", name);
    return path;
}

static int read_node(void) {
    char path[512];
    FILE *file = fopen(in_dir(path, "node", 0, 0), "r");
    if (!file || fscanf(file, "driver %31s\n", driver_version) != 1) { if (file) fclose(file); return -1; }
    gpu_count = 0;
    struct gpu *g = gpus;
    while (gpu_count < MAX_GPUS && fscanf(file, "%d %63s %lld %d.%d %d %d %63[^\n]\n", &g->minor, g->uuid, &g->memory,
               &g->major_capability, &g->minor_capability, &g->mig, &g->persistence, g->model) == 8) { gpu_count++; g++; }
    fclose(file);
    return 0;
}

static struct gpu *by_uuid(const char *uuid) {
    for (int i = 0; i < gpu_count; i++) if (!strcmp(gpus[i].uuid, uuid)) return &gpus[i];
    return NULL;
}

/* ---- inside of an application ---- */

static int open_devices(void) {
    char path[128], name[32];
    device_count = 0;
    devices[device_count] = open(device(path, "nvidiactl"), O_RDWR | O_CLOEXEC);
    if (devices[device_count] < 0) return -1;
    device_count++;
    for (int i = 0; i < mine_count; i++) {
        snprintf(name, sizeof name, "nvidia%d", gpus[mine[i]].minor);
        devices[device_count] = open(device(path, name), O_RDWR | O_CLOEXEC);
        if (devices[device_count] < 0) return -1;
        device_count++;
    }
    return 0;
}

static void close_devices(void) { while (device_count > 0) close(devices[--device_count]); }

static const char *block_path(char *path, struct block *b) {
    char name[32];
    snprintf(name, sizeof name, "%s-%d", token, b->number);
    if (!*b->foreign) return in_dir(path, "gpu/%s/%s", b->uuid, name);
    for (int i = 0; i < gpu_count; i++) if (!access(in_dir(path, "gpu/%s/%s", gpus[i].uuid, b->foreign), F_OK)) break;
    return path;
}

/* ---- the job ---- */

static int open_job(struct job *job) {
    const char *path = getenv("CUDA_CHECKPOINT_JOB_FILE");
    int fd = path && *path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    memset(job, 0, sizeof *job);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB)) { close(fd); return -2; }
    if (fd >= 0 && pread(fd, job, sizeof *job, 0) < 0) { close(fd); return -1; }
    return fd;
}

static void close_job(int fd, struct job *job) {
    if (pwrite(fd, job, sizeof *job, 0) != sizeof *job) abort();
    close(fd);
}

static int shares_memory(void) {
    for (int i = 0; i < MAX_BLOCKS - MAX_GPUS; i++) if (blocks[i].used && (blocks[i].exported || *blocks[i].foreign)) return 1;
    return 0;
}

/* What the job says to a step of this process. */
static int step_in_job(struct job *job, char step) {
    int me = 0, done = 0;
    while (me < job->count && strcmp(job->members[me].token, token)) me++;
    if (me == job->count) return UNKNOWN;
    for (int i = 0; i < job->count; i++) {
        char its = job->members[i].state;
        int before = job->members[i].place && job->members[i].place < job->members[me].place;
        if (step == 'c' && its == 'R') return ILLEGAL_STATE; /* not all are locked */
        if (step == 'r' && before && its == 'C') return ILLEGAL_STATE;
        if (step == 'u' && before && its != 'R') return ILLEGAL_STATE;
        done += its == 'C';
    }
    if (step == 'c') job->members[me].place = done + 1;
    if (step == 'u') job->members[me].place = 0;
    job->members[me].state = step == 'c' ? 'C' : step == 'u' ? 'R' : 'L';
    return OK;
}

static int move(struct block *b, int out) {
    char path[512];
    int fd = open(block_path(path, b), out ? O_RDONLY : O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0) return -1;
    if (out) b->held = malloc(b->size);
    ssize_t done = out ? pread(fd, b->held, b->size, 0) : pwrite(fd, b->held, b->size, 0);
    close(fd);
    if (done != (ssize_t)b->size) return -1;
    if (out) unlink(path); else { free(b->held); b->held = NULL; }
    return 0;
}

static long long used_on(const char *uuid, const char *owner) {
    char path[512];
    long long total = 0;
    DIR *folder = opendir(in_dir(path, "gpu/%s%s", uuid, ""));
    for (struct dirent *e; folder && (e = readdir(folder));) {
        struct stat s;
        if (e->d_name[0] != '.' && (!owner || !strncmp(e->d_name, owner, 8)) && !fstatat(dirfd(folder), e->d_name, &s, 0)) total += s.st_size;
    }
    if (folder) closedir(folder);
    return total;
}

static void enter(char next) {
    char name[16];
    state = next;
    snprintf(name, sizeof name, "cu%s%c", token, state);
    prctl(PR_SET_NAME, name);
}

static int do_restore(char *pairs) {
    char target[MAX_GPUS][64];
    int next[MAX_GPUS];
    if (read_node()) return NO_DEVICE;
    for (int i = 0; i < mine_count; i++) {
        /* "mine" holds places in the old node's list, so the UUIDs were put aside at the checkpoint. */
        strcpy(target[i], blocks[MAX_BLOCKS - 1 - i].uuid);
        if (*pairs) {
            char *found = strstr(pairs, target[i]);
            while (found && found != pairs && found[-1] != ',') found = strstr(found + 1, target[i]);
            if (!found || !(found = strchr(found, '='))) return INVALID_VALUE;
            sscanf(found + 1, "%63[^,]", target[i]);
        }
        struct gpu *g = by_uuid(target[i]);
        if (!g) return NO_DEVICE;
        next[i] = g - gpus;
    }
    for (int i = 0; i < MAX_BLOCKS - MAX_GPUS; i++) {
        if (!blocks[i].used || *blocks[i].foreign) continue;
        for (int j = 0; j < mine_count; j++)
            if (!strcmp(blocks[i].uuid, blocks[MAX_BLOCKS - 1 - j].uuid)) {
                if (used_on(target[j], NULL) + (long long)blocks[i].size > gpus[next[j]].memory) return OUT_OF_MEMORY;
                strcpy(blocks[i].uuid, target[j]);
                break;
            }
    }
    memcpy(mine, next, sizeof mine);
    for (int i = 0; i < mine_count; i++) strcpy(blocks[MAX_BLOCKS - 1 - i].uuid, target[i]);
    if (open_devices()) { close_devices(); return NO_DEVICE; }
    for (int i = 0; i < MAX_BLOCKS - MAX_GPUS; i++) if (blocks[i].used && !*blocks[i].foreign && move(&blocks[i], 0)) return UNKNOWN;
    enter('L');
    return OK;
}

static int obey_alone(char *order) {
    if (!strncmp(order, "lock ", 5)) {
        if (state != 'R') return ILLEGAL_STATE;
        long limit = atol(order + 5);
        for (long waited = 0; busy; waited += 2) { if (limit && waited > limit) return NOT_READY; pause_ms(2); }
        /* Only here: later the others may stand with the mutex in their hands, and this thread runs alone. */
        pthread_mutex_lock(&guard);
        enter('L');
        pthread_mutex_unlock(&guard);
    } else if (!strncmp(order, "checkpoint", 10)) {
        if (state != 'L') return ILLEGAL_STATE;
        for (int i = 0; i < MAX_BLOCKS - MAX_GPUS; i++) if (blocks[i].used && !*blocks[i].foreign && move(&blocks[i], 1)) { enter('F'); return UNKNOWN; }
        for (int i = 0; i < mine_count; i++) strcpy(blocks[MAX_BLOCKS - 1 - i].uuid, gpus[mine[i]].uuid);
        close_devices();
        enter('C');
    } else if (!strncmp(order, "restore ", 8)) {
        return state == 'C' ? do_restore(order + 8) : ILLEGAL_STATE;
    } else if (!strncmp(order, "unlock", 6)) {
        if (state != 'L') return ILLEGAL_STATE;
        enter('R');
    }
    return OK;
}

static int obey(char *order) {
    struct job job, next;
    int fd = open_job(&job), result = OK;
    if (fd == -2) return ILLEGAL_STATE; /* another process of the job is in the middle of a step */
    if (*order == 'c' && shares_memory() && (fd < 0 || atoi(driver_version) < ipc_driver)) result = NOT_SUPPORTED;
    next = job;
    if (fd >= 0) pause_ms(10);
    if (fd >= 0 && result == OK) result = step_in_job(&next, *order);
    if (result == OK) result = obey_alone(order);
    if (fd >= 0) close_job(fd, result == OK ? &next : &job);
    return result;
}

static void *restore_thread(void *nothing) {
    char path[512], order[2048];
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    enter('R');
    for (;;) {
        pause_ms(2);
        FILE *file = fopen(in_dir(path, "requests/%s%s", token, ""), "r");
        if (!file) continue;
        size_t n = fread(order, 1, sizeof order - 1, file);
        fclose(file);
        order[n] = 0;
        unlink(path);
        int result = obey(order);
        char fresh[512], answer[512];
        file = fopen(in_dir(fresh, "replies/.%s%s", token, ""), "w");
        if (file) { fprintf(file, "%d", result); fclose(file); rename(fresh, in_dir(answer, "replies/%s%s", token, "")); }
    }
    return nothing;
}

/* What an application calls first; the host's side calls cuInit only and stays off the GPU. */
int fakeUseGpu(void) {
    pthread_t thread;
    if (started) return OK;
    if (read_node()) return NO_DEVICE;
    for (int i = 0; i < gpu_count; i++) {
        char path[128], name[32];
        snprintf(name, sizeof name, "nvidia%d", gpus[i].minor);
        if (!access(device(path, name), F_OK)) mine[mine_count++] = i;
    }
    if (!mine_count || open_devices()) return NO_DEVICE;
    FILE *random = fopen("/dev/urandom", "r");
    unsigned seed = 0;
    if (!random || fread(&seed, sizeof seed, 1, random) != 1) return UNKNOWN;
    fclose(random);
    snprintf(token, sizeof token, "%08x", seed);
    struct job job;
    int fd;
    while ((fd = open_job(&job)) == -2) pause_ms(1);
    if (fd >= 0) {
        strcpy(job.members[job.count].token, token);
        job.members[job.count++].state = 'R';
        close_job(fd, &job);
    }
    started = 1;
    return pthread_create(&thread, NULL, restore_thread, NULL) ? UNKNOWN : OK;
}

static void begin(void) {
    for (pthread_mutex_lock(&guard); state != 'R'; pthread_mutex_lock(&guard)) {
        pthread_mutex_unlock(&guard);
        pause_ms(1);
    }
}

int fakeAlloc(int device, size_t size, int *number) {
    char path[512];
    if (device >= mine_count) return INVALID_VALUE;
    begin();
    int i = 0, result = OUT_OF_MEMORY;
    while (i < MAX_BLOCKS - MAX_GPUS && blocks[i].used) i++;
    struct gpu *g = &gpus[mine[device]];
    if (i < MAX_BLOCKS - MAX_GPUS && used_on(g->uuid, NULL) + (long long)size <= g->memory) {
        memset(&blocks[i], 0, sizeof blocks[i]);
        blocks[i].used = 1; blocks[i].size = size; blocks[i].number = i;
        strcpy(blocks[i].uuid, g->uuid);
        int fd = open(block_path(path, &blocks[i]), O_RDWR | O_CREAT | O_EXCL, 0600);
        result = fd < 0 || ftruncate(fd, size) ? UNKNOWN : OK;
        if (fd >= 0) close(fd);
        *number = i;
    }
    pthread_mutex_unlock(&guard);
    return result;
}

/* A kernel: adds one to every 32-bit word of a block, and answers the first. */
int fakeAddOne(int number, unsigned *first) {
    char path[512];
    unsigned words[1024];
    int result = OK;
    begin();
    int fd = open(block_path(path, &blocks[number]), O_RDWR);
    for (size_t at = 0; fd >= 0 && at < blocks[number].size; at += sizeof words) {
        ssize_t n = pread(fd, words, sizeof words, at);
        for (ssize_t i = 0; i < n / 4; i++) words[i]++;
        if (pwrite(fd, words, n, at) != n) result = UNKNOWN;
        if (at == 0) *first = words[0];
    }
    if (fd < 0) result = UNKNOWN; else close(fd);
    pthread_mutex_unlock(&guard);
    return result;
}

/* A kernel that takes long: no lock comes about before its end. */
int fakeLongKernel(int seconds) {
    begin();
    busy = 1;
    pthread_mutex_unlock(&guard);
    pause_ms(seconds * 1000L);
    busy = 0;
    return OK;
}

/* The part of the driver's API that tests/gpu/workloads/on_gpu.py uses, so that it and its tests can be tried without a GPU.
 * An address is a block's number plus one in the upper half; a stream runs everything at once; the one kernel adds one. */

static uint64_t address_of(int number) { return (uint64_t)(number + 1) << 32; }
static int number_of(uint64_t address) { return (int)(address >> 32) - 1; }

static int change(uint64_t address, size_t count, int set, unsigned value) {
    char path[512];
    unsigned words[1024];
    int result = OK;
    begin();
    int fd = open(block_path(path, &blocks[number_of(address)]), O_RDWR);
    for (size_t at = 0; fd >= 0 && at < count; at += 1024) {
        size_t n = count - at < 1024 ? count - at : 1024;
        if (pread(fd, words, 4 * n, 4 * at) < 0) result = UNKNOWN;
        for (size_t i = 0; i < n; i++) words[i] = set ? value : words[i] + 1;
        if (pwrite(fd, words, 4 * n, 4 * at) != (ssize_t)(4 * n)) result = UNKNOWN;
    }
    if (fd < 0) result = UNKNOWN; else close(fd);
    pthread_mutex_unlock(&guard);
    return result;
}

static struct { int is_copy; uint64_t address; size_t count; void *to; } nodes[16];
static int node_count, capturing;

int cuDeviceGet(int *device, int index) { *device = index; return initialized ? OK : NOT_INITIALIZED; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &gpus[device]; return fakeUseGpu(); }
int cuCtxSetCurrent(void *context) { return context ? OK : INVALID_VALUE; }
int cuModuleLoadData(void **module, const char *image) { *module = (void *)image; return strstr(image, ".entry add_one") ? OK : INVALID_VALUE; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = module; return strcmp(name, "add_one") ? INVALID_VALUE : OK; }
int cuMemAlloc_v2(uint64_t *address, size_t size) { int number = 0, result = fakeAlloc(0, size, &number); *address = address_of(number); return result; }
int cuMemsetD32_v2(uint64_t address, unsigned value, size_t count) { return change(address, count, 1, value); }
int cuMemHostAlloc(void **at, size_t size, unsigned flags) { (void)flags; *at = calloc(1, size); return OK; }
int cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = &node_count; return OK; }
int cuStreamSynchronize(void *stream) { return stream ? OK : INVALID_VALUE; }

int cuMemcpyDtoH_v2(void *to, uint64_t address, size_t size) {
    char path[512];
    begin();
    int fd = open(block_path(path, &blocks[number_of(address)]), O_RDONLY);
    int result = fd >= 0 && pread(fd, to, size, 0) == (ssize_t)size ? OK : UNKNOWN;
    if (fd >= 0) close(fd);
    pthread_mutex_unlock(&guard);
    return result;
}

struct ipc_handle { char name[64]; };

int cuIpcGetMemHandle(struct ipc_handle *handle, uint64_t address) {
    struct block *b = &blocks[number_of(address)];
    memset(handle, 0, sizeof *handle);
    snprintf(handle->name, sizeof handle->name, "%s-%d", token, b->number);
    b->exported = 1;
    return OK;
}

int cuIpcOpenMemHandle_v2(uint64_t *address, struct ipc_handle handle, unsigned flags) {
    char path[512];
    struct stat found;
    int i = 0;
    (void)flags;
    begin();
    while (i < MAX_BLOCKS - MAX_GPUS && blocks[i].used) i++;
    memset(&blocks[i], 0, sizeof blocks[i]);
    snprintf(blocks[i].foreign, sizeof blocks[i].foreign, "%.23s", handle.name);
    int result = stat(block_path(path, &blocks[i]), &found) ? INVALID_VALUE : OK;
    blocks[i].used = result == OK; blocks[i].size = found.st_size; blocks[i].number = i;
    *address = address_of(i);
    pthread_mutex_unlock(&guard);
    return result;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t address, size_t size, void *stream) {
    (void)stream;
    if (!capturing) return cuMemcpyDtoH_v2(to, address, size);
    nodes[node_count].is_copy = 1; nodes[node_count].address = address; nodes[node_count].count = size; nodes[node_count++].to = to;
    return OK;
}

int cuLaunchKernel(void *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **parameters, void **extra) {
    (void)stream;
    uint64_t address = *(uint64_t *)parameters[0];
    unsigned count = *(unsigned *)parameters[1];
    if (!kernel || gy != 1 || gz != 1 || by != 1 || bz != 1 || shared || extra || gx * bx < count) return INVALID_VALUE;
    if (!capturing) return change(address, count, 0, 0);
    nodes[node_count].is_copy = 0; nodes[node_count].address = address; nodes[node_count++].count = count;
    return OK;
}

int cuStreamBeginCapture_v2(void *stream, int mode) { capturing = stream && !mode; return OK; }
int cuStreamEndCapture(void *stream, void **graph) { capturing = 0; *graph = nodes; return stream ? OK : INVALID_VALUE; }
int cuGraphInstantiateWithFlags(void **runnable, void *graph, uint64_t flags) { *runnable = graph; return flags ? INVALID_VALUE : OK; }

int cuGraphLaunch(void *runnable, void *stream) {
    int result = runnable && stream ? OK : INVALID_VALUE;
    for (int i = 0; i < node_count && result == OK; i++)
        result = nodes[i].is_copy ? cuMemcpyDtoH_v2(nodes[i].to, nodes[i].address, nodes[i].count)
                                  : change(nodes[i].address, nodes[i].count, 0, 0);
    return result;
}

/* ---- outside ---- */

static void name_of(int pid, char *name) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    FILE *file = fopen(path, "r");
    strcpy(name, "?");
    if (file) { if (fscanf(file, "%63[^\n]", name) != 1) strcpy(name, "?"); fclose(file); }
}

static int find_thread(int pid, char *its_token, char *its_state) {
    char path[320], name[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    int found = 0;
    for (struct dirent *e; tasks && !found && (e = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/comm", pid, e->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        if (fscanf(file, "%63[^\n]", name) == 1 && strlen(name) == 11 && !strncmp(name, "cu", 2) && strspn(name + 2, "0123456789abcdef") >= 8) {
            memcpy(its_token, name + 2, 8);
            its_token[8] = 0;
            *its_state = name[10];
            found = atoi(e->d_name);
        }
        fclose(file);
    }
    if (tasks) closedir(tasks);
    return found;
}

static char run_state(int tid) {
    char path[64], text[512], *end;
    snprintf(path, sizeof path, "/proc/%d/stat", tid);
    FILE *file = fopen(path, "r");
    if (!file) return 'X';
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    end = strrchr(text, ')');
    return end && end[1] ? end[2] : 'X';
}

static void note(const char *step, int pid, const char *form, int result) {
    char path[512], name[64], line[256];
    name_of(pid, name);
    int n = snprintf(line, sizeof line, "%s %s %d ", step, name, pid);
    n += snprintf(line + n, sizeof line - n, form, result);
    int fd = open(in_dir(path, "calls", 0, 0), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (fd >= 0) { if (write(fd, line, n) != n) abort(); close(fd); }
}

static int fault(const char *step, int pid) {
    char path[512], name[64], line[256], at[32], who[64], what[64], rest[32];
    int result = OK;
    name_of(pid, name);
    FILE *file = fopen(in_dir(path, "faults", 0, 0), "r");
    while (file && fgets(line, sizeof line, file)) {
        rest[0] = 0;
        if (sscanf(line, "%31s %63s %63s %31s", at, who, what, rest) < 3 || strcmp(at, step) || (strcmp(who, "*") && strcmp(who, name))) continue;
        if (!strcmp(rest, "once")) unlink(path);
        if (!strcmp(what, "hang")) for (;;) pause_ms(1000);
        if (!strcmp(what, "crash")) raise(SIGSEGV);
        if (!strncmp(what, "delay=", 6)) pause_ms((long)(atof(what + 6) * 1000)); else result = atoi(what);
        break;
    }
    if (file) fclose(file);
    return result;
}

static int order(const char *step, int pid, const char *words) {
    char path[512], its_token[9], its_state, fresh[512];
    if (!initialized) return NOT_INITIALIZED;
    note(step, pid, "begins\n", 0);
    int result = fault(step, pid), tid = find_thread(pid, its_token, &its_state);
    if (result == OK && !tid) result = INVALID_VALUE;
    if (result == OK) {
        unlink(in_dir(path, "replies/%s%s", its_token, ""));
        FILE *file = fopen(in_dir(fresh, "requests/.%s%s", its_token, ""), "w");
        if (!file) return UNKNOWN;
        fprintf(file, "%s%s", step, words);
        fclose(file);
        rename(fresh, in_dir(path, "requests/%s%s", its_token, ""));
        for (;;) {
            pause_ms(1);
            file = fopen(in_dir(path, "replies/%s%s", its_token, ""), "r");
            if (file) { if (fscanf(file, "%d", &result) != 1) result = UNKNOWN; fclose(file); unlink(path); break; }
            if (strchr("XZ", run_state(tid))) { result = UNKNOWN; break; }
        }
    }
    note(step, pid, "%d\n", result);
    return result;
}

int cuInit(unsigned flags) { initialized = !read_node() && !flags; return initialized ? OK : NO_DEVICE; }

int cuGetErrorName(int code, const char **name) {
    static const struct { int code; const char *name; } names[] = {
        {OK, "CUDA_SUCCESS"}, {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"}, {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {NOT_READY, "CUDA_ERROR_NOT_READY"},
        {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE"}, {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"}, {UNKNOWN, "CUDA_ERROR_UNKNOWN"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) if (names[i].code == code) { *name = names[i].name; return OK; }
    *name = NULL;
    return INVALID_VALUE;
}

int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }

#ifndef WITHOUT_CHECKPOINT
int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid) {
    char its_token[9], its_state;
    if (!initialized) return NOT_INITIALIZED;
    *tid = find_thread(pid, its_token, &its_state);
    return *tid ? OK : INVALID_VALUE;
}

int cuCheckpointProcessGetState(int pid, int *now) {
    char its_token[9], its_state;
    if (!initialized) return NOT_INITIALIZED;
    int tid = find_thread(pid, its_token, &its_state);
    if (!tid) return INVALID_VALUE;
    while (strchr("Tt", run_state(tid))) pause_ms(1); /* the real one may wait for its thread, too */
    find_thread(pid, its_token, &its_state);
    const char *letters = "RLCF", *at = strchr(letters, its_state);
    *now = at ? (int)(at - letters) : 3;
    return OK;
}

int cuCheckpointProcessLock(int pid, unsigned *arguments) {
    char words[32];
    snprintf(words, sizeof words, " %u", arguments ? arguments[0] : 0);
    return order("lock", pid, words);
}

int cuCheckpointProcessCheckpoint(int pid, void *arguments) { (void)arguments; return order("checkpoint", pid, ""); }
int cuCheckpointProcessUnlock(int pid, void *arguments) { (void)arguments; return order("unlock", pid, ""); }

static int spell(char *text, const unsigned char *b) {
    return sprintf(text, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4],
                   b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

struct restore_arguments { unsigned char (*pairs)[32]; unsigned count; };

int cuCheckpointProcessRestore(int pid, struct restore_arguments *arguments) {
    char words[2048] = " ";
    char *at = words + 1;
    for (unsigned i = 0; arguments && i < arguments->count; i++) {
        at += spell(at, arguments->pairs[i]);
        *at++ = '=';
        at += spell(at, arguments->pairs[i] + 16);
        *at++ = ',';
        *at = 0;
    }
    return order("restore", pid, words);
}
#endif

int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    (void)version; (void)flags;
    Dl_info self;
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *function = library ? dlsym(library, symbol) : NULL;
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : INVALID_VALUE;
}
int cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

/* ---- NVML ---- */

enum { NVML_INSUFFICIENT_SIZE = 7, NVML_UNKNOWN = 999 };
struct nvml_memory { unsigned long long total, free, used; };
struct nvml_memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct nvml_process { unsigned pid; unsigned long long used; unsigned gi, ci; };

int nvmlInit_v2(void) { return read_node() ? NVML_UNKNOWN : OK; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "fake NVML error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "%s", driver_version); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = gpu_count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = &gpus[index]; return index < (unsigned)gpu_count ? OK : 2; }
int nvmlDeviceGetUUID(struct gpu *g, char *text, unsigned size) { snprintf(text, size, "%s", g->uuid); return OK; }
int nvmlDeviceGetName(struct gpu *g, char *text, unsigned size) { snprintf(text, size, "%s", g->model); return OK; }
int nvmlDeviceGetCudaComputeCapability(struct gpu *g, int *major, int *minor) { *major = g->major_capability; *minor = g->minor_capability; return OK; }
int nvmlDeviceGetMemoryInfo(struct gpu *g, struct nvml_memory *m) { m->total = g->memory; m->used = used_on(g->uuid, NULL); m->free = m->total - m->used; return OK; }
int nvmlDeviceGetMigMode(struct gpu *g, unsigned *now, unsigned *pending) { *now = *pending = g->mig; return OK; }
int nvmlDeviceGetPersistenceMode(struct gpu *g, unsigned *mode) { *mode = g->persistence; return OK; }
int nvmlDeviceGetMinorNumber(struct gpu *g, unsigned *minor) { *minor = g->minor; return OK; }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(struct gpu *g, unsigned *count, struct nvml_process *list) { (void)g; (void)list; *count = 0; return OK; }

int nvmlDeviceGetComputeRunningProcesses_v3(struct gpu *g, unsigned *count, struct nvml_process *list) {
    unsigned room = *count, found = 0;
    DIR *all = opendir("/proc");
    for (struct dirent *e; all && (e = readdir(all));) {
        char its_token[9], its_state;
        int pid = atoi(e->d_name);
        if (pid <= 0 || !find_thread(pid, its_token, &its_state) || !strchr("RL", its_state)) continue;
        long long used = used_on(g->uuid, its_token);
        if (!used) continue;
        if (found < room && list) { list[found].pid = pid; list[found].used = used; list[found].gi = list[found].ci = -1; }
        found++;
    }
    if (all) closedir(all);
    *count = found;
    return found > room ? NVML_INSUFFICIENT_SIZE : OK;
}
