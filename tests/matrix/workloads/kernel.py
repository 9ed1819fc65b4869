"""A Jupyter kernel in a process of its own, and a client that has it count."""

import time

from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(startup_timeout=120)
client.execute_interactive("n = 0", timeout=60, output_hook=lambda message: None)
with open("/out", "a", buffering=1) as out:
    while True:
        said = []
        client.execute_interactive("n += 1; print(n)", timeout=60, output_hook=said.append)
        text = "".join(each["content"].get("text", "") for each in said if each["msg_type"] == "stream")
        out.write(text)
        time.sleep(0.1)
