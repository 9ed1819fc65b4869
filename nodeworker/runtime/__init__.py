"""The OCI runtime that containerd, CRI-O and ``woodfrog run`` call in place of runc.

A POSIX sh script (``wrapper.sh.in``, written out by ``install``) passes everything on to runc in a few milliseconds, but
for the containers that carry the variable: those go to ``slowpath``, Python without anything but the standard library,
which asks the node worker.
"""
