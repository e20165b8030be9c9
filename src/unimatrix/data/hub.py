"""Whether the Hugging Face hub answers: its client's own retries would take half a minute to say so."""

import queue
import threading

PROBE_SECONDS = 4.0


def why_unreachable() -> str | None:
    """None where the hub answers; otherwise the reason, within PROBE_SECONDS."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer: queue.Queue[str | None] = queue.Queue()

    def probe() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
        except Exception as error:
            answer.put(f"no network: {type(error).__name__}: {error}".splitlines()[0])
        else:
            answer.put(None)

    # in a thread of its own because no timeout of the client covers a name server that keeps silent
    threading.Thread(target=probe, daemon=True).start()
    try:
        return answer.get(timeout=PROBE_SECONDS + 1.0)
    except queue.Empty:
        return f"no network: no answer within {PROBE_SECONDS + 1.0:.0f} s"
