// The seed's workload as people write it: the runtime API, a kernel, a loop. Arguments: FILE.
#include <cstdio>
#include <unistd.h>

__global__ void add(const int *a, const int *b, int *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

#define OK(call) do { cudaError_t e = (call); if (e != cudaSuccess) { fprintf(stderr, "%s\n", cudaGetErrorString(e)); return 1; } } while (0)

int main(int, char **words) {
    const int n = 1 << 20;
    static int ones[n], sums[n];
    int *one, *sum;
    for (int i = 0; i < n; i++) ones[i] = 1;
    OK(cudaMalloc(&one, sizeof ones));
    OK(cudaMalloc(&sum, sizeof sums));
    OK(cudaMemcpy(one, ones, sizeof ones, cudaMemcpyHostToDevice));
    OK(cudaMemset(sum, 0, sizeof sums));
    for (;;) {
        add<<<(n + 255) / 256, 256>>>(sum, one, sum, n);
        OK(cudaMemcpy(sums, sum, sizeof sums, cudaMemcpyDeviceToHost));
        for (int i = 1; i < n; i++) if (sums[i] != sums[0]) return 2;
        FILE *file = fopen(words[1], "a");
        fprintf(file, "%d\n", sums[0]);
        fclose(file);
        usleep(20000);
    }
}
