"""joblib's processes (loky) count; each call returns the number after."""

import time

from joblib import Parallel, delayed


def successor(number):
    return number + 1


if __name__ == "__main__":
    number = 0
    with open("/out", "a", buffering=1) as out, Parallel(n_jobs=2) as parallel:
        while True:
            found = parallel(delayed(successor)(number + each) for each in range(4))
            for number in found:
                print(number, file=out)
            time.sleep(0.2)
