#!/usr/bin/env python3
"""Opens the latency page of a running corebid, or a load tester's report, in headless Chromium, as a desk and a phone
show it, light and dark; saves a picture of each, and fails when the page complains, stays empty, or is wider than its
screen.

    tests/page/look.py http://127.0.0.1:9090/ [--out DIR] [--wait SECONDS] [--only desk-light]
    tests/page/look.py --kind report file:///tmp/runs/a/report.html [...]

Needs Python 3 and Chromium (CHROMIUM names another binary), and nothing else: it talks to the browser over a pipe.
"""

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

# Name, width, height, pixels per point, colour scheme.
SCREENS = [
    ("desk-light", 1440, 1000, 1, "light"),
    ("desk-dark", 1440, 1000, 1, "dark"),
    ("phone-light", 390, 844, 2, "light"),
    ("phone-dark", 390, 844, 2, "dark"),
]

# What is true of all pages. The rest says what must be there once the page has had its figures.
ALWAYS = """
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`${document.documentElement.scrollWidth} px wide`);
  for (const th of document.querySelectorAll("th")) if (!th.scope && !th.closest(".u-legend")) wrong.push("a th without scope");
  return wrong;
})()"""
LIVE = """(() => {
  const wrong = [];
  const text = (id) => document.querySelector(id)?.textContent.trim() ?? "";
  if (!/^[0-9]/.test(text("#h-rate .value"))) wrong.push("no rate: " + text("#h-rate .value"));
  if (text("#state") === "no news") wrong.push("it has no news");
  for (const id of ["stages", "dsps", "shards", "ssp"])
    if (!document.querySelectorAll(`#${id} tbody tr`).length) wrong.push(`table ${id} is empty`);
  for (const id of ["over-time", "percentiles", "heat"])
    if (!document.querySelector(`#${id} canvas`)) wrong.push(`chart ${id} is missing`);
  const outside = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith(location.origin));
  if (outside.length) wrong.push("asks outside: " + outside[0].name);
"""
REPORT = """(() => {
  const wrong = [];
  if (!document.querySelector("#verdict").textContent) wrong.push("no verdict");
  if (!document.querySelectorAll("#findings li").length) wrong.push("no findings");
  if (document.querySelectorAll("#headline .tile").length < 4) wrong.push("hardly any tile");
  const figures = [...document.querySelectorAll("#charts figure")].filter((figure) => !figure.hidden);
  if (figures.length < 3) wrong.push("hardly any chart");
  for (const figure of figures) if (!figure.querySelector("canvas")) wrong.push(`chart ${figure.id} is missing`);
  if (!document.querySelectorAll("#tables tbody tr").length) wrong.push("no table");
  if (document.querySelector("main").textContent.match(/NaN|undefined/)) wrong.push("a figure is none");
  if (performance.getEntriesByType("resource").length) wrong.push("asks outside: " + performance.getEntriesByType("resource")[0].name);
"""
CHECKS = {"live": LIVE + ALWAYS, "report": REPORT + ALWAYS}


class Browser:
    """Chromium behind a pipe: JSON messages that end with a zero byte."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="corebid-look-", ignore_cleanup_errors=True)
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()

        def descriptors():
            # Where Chromium wants them. First out of the way, because each may be where the other has to go.
            ends = [os.dup(to_browser), os.dup(from_browser)]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=descriptors, close_fds=False, start_new_session=True)
        os.close(to_browser)
        os.close(from_browser)
        self.unread = b""
        self.number = 0
        self.complaints = []

    def call(self, method, session=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def read(self):
        while b"\0" not in self.unread:
            part = os.read(self.read_end, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self.unread += part
        message, self.unread = self.unread.split(b"\0", 1)
        message = json.loads(message)
        if message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.complaints.append(message["params"]["entry"]["text"])
        return message

    def close(self):
        # The whole family, which would go on writing into the profile; and who is not gone at once may still do.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.profile.cleanup()


def look(browser, url, screen, arguments):
    name, width, height, scale, scheme = screen
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(method, **params):
        return browser.call(method, session, **params)

    def evaluate(expression):
        return call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    for domain in ["Page", "Runtime", "Log"]:
        call(f"{domain}.enable")
    call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)
    call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    call("Page.navigate", url=url)
    time.sleep(arguments.wait)
    # On a busy machine a browser is slow; what is wrong after this long is wrong.
    patience = time.monotonic() + 30
    while (wrong := evaluate(CHECKS[arguments.kind])) != [] and time.monotonic() < patience:
        time.sleep(0.5)
    full = evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": full, "scale": 1}
    picture = call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
    with open(os.path.join(arguments.out, f"{name}.png"), "wb") as file:
        file.write(base64.b64decode(picture))
    browser.call("Target.closeTarget", targetId=target)
    return wrong if wrong is not None else ["the page could not be asked"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--kind", choices=CHECKS, default="live", help="what the page is [default: live]")
    parser.add_argument("--out", default=".", help="folder for the pictures [default: here]")
    parser.add_argument("--wait", type=float, default=4, help="seconds to let the page work [default: 4]")
    parser.add_argument("--only", help="one screen: " + ", ".join(name for name, *_ in SCREENS))
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    browser = Browser()
    wrong = []
    try:
        for screen in SCREENS:
            if arguments.only in (None, screen[0]):
                found = look(browser, arguments.url, screen, arguments)
                wrong += [f"{screen[0]}: {what}" for what in found]
                print(f"{screen[0]}: {'good' if not found else found}", flush=True)
        wrong += [f"the page complains: {what}" for what in browser.complaints]
    finally:
        browser.close()
    for what in wrong:
        print(what, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
