"""The environment that tests run in. Import this before anything imports Prefect, which reads it once."""

import atexit
import os
import shutil
import signal
import tempfile

# What starts tests in the background may ignore Ctrl-C, and their children would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PREFECT_HOME = tempfile.mkdtemp(prefix="lookbook-prefect-")
atexit.register(shutil.rmtree, PREFECT_HOME, ignore_errors=True)
os.environ["PREFECT_HOME"] = PREFECT_HOME
os.environ["PREFECT_API_URL"] = ""  # no server of the developer's
os.environ["DO_NOT_TRACK"] = "1"
# What Prefect does every few seconds, or once a minute, it does often here.
os.environ["PREFECT_LOGGING_TO_API_BATCH_INTERVAL"] = "0.1"
os.environ["PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL"] = "0.1"
os.environ["PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS"] = "2"
os.environ["PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS"] = "1"
os.environ["PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY"] = "PT0.2S"
os.environ["PREFECT_WORKER_QUERY_SECONDS"] = "0.5"
for name in [name for name in os.environ if name.startswith("LOOKBOOK_")]:
    del os.environ[name]

# A person who isn't root: root without the right to read and write everything (setpriv is util-linux's).
WITHOUT_ROOTS_RIGHTS = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)

# A proxy that answers nothing: what is on this machine never goes through one.
DEAD_PROXIES = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9"),
    "NO_PROXY": "somewhere.example",
    "no_proxy": "",
}
