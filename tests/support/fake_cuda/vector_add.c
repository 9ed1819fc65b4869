/* Counts on a GPU: every number that it writes to FILE was made there. Arguments: FILE, then "long" for kernels of 30 s, "fork"
 * for a child that only holds the devices, "two" for a second process with a GPU memory of its own (FILE.2). */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int fakeUseGpu(void);
int fakeAlloc(int device, unsigned long size, int *number);
int fakeAddOne(int number, unsigned *first);
int fakeLongKernel(int seconds);

int main(int count, char **words) {
    const char *how = count > 2 ? words[2] : "";
    char path[256];
    unsigned first = 0;
    int number, result;
    snprintf(path, sizeof path, "%s", words[1]);
    if (!strcmp(how, "two") && !fork()) snprintf(path, sizeof path, "%s.2", words[1]);
    if ((result = fakeUseGpu()) || (result = fakeAlloc(0, 1 << 20, &number))) { printf("no GPU: %d\n", result); return 1; }
    if (!strcmp(how, "fork") && !fork()) for (;;) pause();
    for (;;) {
        if (fakeAddOne(number, &first)) return 2;
        FILE *file = fopen(path, "a");
        fprintf(file, "%u\n", first);
        fclose(file);
        if (!strcmp(how, "long")) fakeLongKernel(30);
        usleep(20000);
    }
}
