"""A Celery application whose task counts; run as `celery worker`, and by itself as the one that sends tasks."""

import time

from celery import Celery

app = Celery("tasks", broker="redis://127.0.0.1", backend="redis://127.0.0.1")


@app.task
def successor(number):
    return number + 1


if __name__ == "__main__":
    number = 0
    with open("/out", "a", buffering=1) as out:
        while True:
            number = successor.delay(number).get(timeout=60)
            print(number, file=out)
            time.sleep(0.1)
