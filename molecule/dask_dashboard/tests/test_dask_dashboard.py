"""The dashboard as people meet it: behind TLS and a password, alive in a real browser, with the workers' own pages."""

import http.client
import re
import shutil
import ssl
import stat
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

testinfra_hosts = ["ansible://dask_scheduler"]
ROOT = Path(__file__).parents[3]
PKI = ROOT / "molecule" / "inventory" / "pki"
SCREENSHOT = ROOT / ".hostnet" / "log" / "dashboard.png"
UNIT = "dask-hostnet-dashboard"
CHOSEN = "by-the-operator"
# not the browser's play
SCHEDULER = ("--limit", "dask_scheduler")
TASKS = 60
# the tasks' keys begin with MARK, by which this run's are known
MARK = f"probe-{time.time_ns()}"
COMPUTE = f"""
import time
def probe(i):
    time.sleep(0.05)
    return i
print(json.dumps(sum(client.gather(client.map(probe, range({TASKS}), key="{MARK}")))))
"""
# in Bokeh's pages: the data of each plot
DATA = "() => Bokeh.documents.flatMap(one => [...one._all_models.values()].filter(m => m.data).map(m => m.data))"
SHOWN = f"() => window.Bokeh && Bokeh.documents.length > 0 && ({DATA})().length > 0"
NAMES = f"({DATA})().filter(d => d.nthreads).flatMap(d => [...d.name])"
IN_STREAM = f"({DATA})().filter(d => d.worker_thread).flatMap(d => [...d.key]).filter(k => k.includes('{MARK}')).length"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str
    # time.monotonic()
    at: float


@pytest.fixture(scope="module")
def address(addresses):
    return addresses["scheduler1"]


@pytest.fixture(scope="module")
def ask(address):
    """Ask the dashboard for a page, from this machine, through no proxy; the certificate is checked."""

    def get(path, password=None, newest=None, method="GET", **headers):
        context = ssl.create_default_context(cafile=PKI / "ca.crt")
        if newest:
            context.maximum_version = newest
        if password:
            headers["Authorization"] = "Basic " + b64encode(f"dask:{password}".encode()).decode()
        connection = http.client.HTTPSConnection(address, 8443, context=context, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode(), time.monotonic())
        finally:
            connection.close()

    return get


def generated():
    return (PKI / "dashboard.password").read_text()


def main_process(host):
    return host.check_output("systemctl show --property=MainPID --value %s", UNIT)


def test_a_unit_of_somebody_elses_is_not_masked(play, node, scratch):
    unit, groups = "/etc/systemd/system/nginx.service", yaml.safe_load((scratch / "hosts.yml").read_text())
    # on a host that has no dashboard yet
    groups["dask_scheduler"]["hosts"] = {"worker1": groups["dask_workers"]["hosts"].pop("worker1")}
    (scratch / "hosts.yml").write_text(yaml.safe_dump(groups))
    worker1 = node("worker1")
    worker1.check_output("printf '[Service]\\nExecStart=/opt/web\\n' > %s", unit)
    try:
        run = play(*SCHEDULER, inventory=scratch)
        kept = worker1.check_output("cat %s", unit)
    finally:
        worker1.check_output("rm %s", unit)
    assert run.status != 0
    assert run.changed == {"worker1": 0}
    run.says("worker1: /etc/systemd/system/nginx.service is somebody's own")
    assert kept == "[Service]\nExecStart=/opt/web"
    assert not worker1.file("/etc/dask-hostnet/dashboard").exists


def test_it_listens_on_the_planned_address_alone(host, address):
    listening = [line.split()[3] for line in host.check_output("ss -Htlnp").splitlines() if "nginx" in line]
    assert listening == [f"{address}:8443"]
    service = host.service(UNIT)
    assert service.is_running
    assert service.is_enabled
    # Debian's own, which would listen on port 80 after the next boot
    assert host.run("systemctl is-enabled nginx").stdout.strip() == "masked"


def test_without_the_password_it_shows_nothing(ask, addresses):
    pages = ("/", "/status", "/health", "/metrics", "/json/counts.json", f"/proxy/10200/{addresses['worker1']}/health")
    # a refusal takes its time
    with ThreadPoolExecutor(2 * len(pages)) as pool:
        asked = [pool.submit(ask, page, password) for page in pages for password in (None, "guess")]
        assert {answer.result().status for answer in asked} == {401}
    assert ask("/status", generated()).status == 200
    assert ask("/health", generated()).body == "ok"


def test_it_speaks_the_clusters_tls_alone(address, ask):
    plain = http.client.HTTPConnection(address, 8443, timeout=20)
    plain.request("GET", "/status")
    assert plain.getresponse().status == 400
    plain.close()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask("/health", generated(), newest=ssl.TLSVersion.TLSv1_2)


def test_browsers_are_told_what_is_not_allowed(ask):
    for page in ("/status", "/api"):
        headers = ask(page, generated()).headers
        assert headers["Strict-Transport-Security"] == "max-age=31536000"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers.get_all("Server") == ["nginx"]


def test_there_is_no_api(ask):
    # refused before the password is looked at: it is not the scheduler that answers
    for page in ("/api", "/api/v1", "/api/v1/get_workers", "//api/v1", "/%61pi/v1"):
        assert ask(page).status == 404
    assert ask("/api/v1/retire_workers", generated(), method="POST").status == 405


def test_a_page_of_somebody_else_cannot_use_the_browsers_login(ask, address):
    def status(origin):
        return ask("/health", generated(), Origin=origin).status

    assert status(f"https://{address}:8443") == 200
    for foreign in (
        "https://evil.example",
        "null",
        f"https://{address}",
        f"https://evil.example/|https://{address}:8443",
    ):
        assert status(foreign) == 403


def test_the_workers_pages_are_reached_by_the_dashboards_links(ask, addresses):
    links = re.findall(r'href="\.\./\.\./(proxy/[^"]+)"', ask("/info/main/workers.html", generated()).body)
    assert sorted(links) == sorted(f"proxy/10200/{addresses[name]}/status" for name in ("worker1", "worker2"))
    for link in links:
        page = ask(f"/{link}", generated())
        assert page.status == 200
        assert 'href="profile-server"' in page.body
        assert ask(f"/{link}".replace("status", "health"), generated()).body == "ok"


def test_no_other_host_or_port_is_reached_through_it(ask, addresses):
    worker = addresses["worker1"]
    for where in (f"10000/{worker}", f"8443/{addresses['scheduler1']}", "10200/203.0.113.1", "10200/worker1"):
        assert ask(f"/proxy/{where}/health", generated()).status == 404
    assert ask(f"/proxy/10200/{worker}/health%0d%0aX:y", generated()).status == 404


def test_a_workers_page_opens_to_no_stranger(addresses):
    def page(connection):
        # in TLS 1.3 a client learns of its refusal when it reads
        connection.request("GET", "/health")
        return connection.getresponse().status

    context = ssl.create_default_context(cafile=PKI / "ca.crt")
    where = (addresses["worker1"], 10200)
    for connection in (
        http.client.HTTPSConnection(*where, context=context, timeout=20),
        http.client.HTTPConnection(*where, timeout=20),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            page(connection)
        connection.close()


def test_a_good_login_succeeds_while_twenty_wrong_ones_are_held(host, ask, wait):
    now = host.check_output("date +%s")

    def said():
        return host.check_output("journalctl --no-pager --unit %s --since @%s", UNIT, now)

    with ThreadPoolExecutor(20) as pool:
        start = time.monotonic()
        wrong = [pool.submit(ask, "/health", f"guess-{i}") for i in range(20)]
        wait(lambda: "password mismatch" in said(), "a wrong one has come, and is held for two seconds")
        good = ask("/health", generated())
        held = [answer.result() for answer in wrong]
    assert good.status == 200
    assert {answer.status for answer in held} == {401}
    assert good.at < min(answer.at for answer in held)
    assert min(answer.at for answer in held) - start > 1.9
    log = said()
    assert 'user "dask": password mismatch' in log
    assert "guess-" not in log
    assert generated() not in log


def test_the_secrets_are_kept(host):
    assert len(generated()) == 32
    for path in (PKI / "dashboard.password", PKI / "dashboard.htpasswd"):
        assert stat.filemode(path.stat().st_mode) == "-rw-------"
    users = host.file("/etc/dask-hostnet/dashboard/htpasswd")
    assert (users.user, users.group, oct(users.mode)) == ("root", "www-data", "0o640")
    assert users.content_string.startswith("dask:$2b$")
    assert users.content_string == (PKI / "dashboard.htpasswd").read_text()
    found = host.run("grep --recursive --files-with-matches %s /etc/dask-hostnet /etc/systemd/system", generated())
    assert found.stdout == ""


@pytest.mark.timeout(1200)
def test_a_password_of_the_operators_wins_and_a_renewed_certificate_is_taken_up(host, ask, converge, address):
    process = main_process(host)
    workers = host.check_output("pgrep --parent %s", process)
    host.check_output("touch /etc/dask-hostnet/tls/host.crt")
    try:
        run = converge(*SCHEDULER, "--diff", "-v", dask_dashboard_password=CHOSEN)
        # the two files of users, and the reload
        assert run.changed == {"scheduler1": 3}
        for secret in (CHOSEN, generated(), "$2b$"):
            assert secret not in run.text
        assert ask("/health", CHOSEN).status == 200
        assert ask("/health", generated()).status == 401
        # open websockets are kept: other processes serve, under the same one
        assert main_process(host) == process
        assert host.check_output("pgrep --newest --parent %s", process) not in workers.split()
    finally:
        run = converge(*SCHEDULER)
    assert run.changed == {"scheduler1": 2}
    run.says(f"The dashboard is https://{address}:8443/, user dask, password in {PKI}/")
    assert ask("/health", generated()).status == 200
    assert ask("/health", CHOSEN).status == 401


def test_a_browser_shows_the_workers_and_the_tasks_as_they_run(address, addresses, client):
    url, sockets, errors = f"https://{address}:8443", [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--disable-dev-shm-usage"])
        # the certificate is checked above
        context = browser.new_context(
            ignore_https_errors=True,
            http_credentials={"username": "dask", "password": generated()},
            viewport={"width": 1400, "height": 900},
        )
        page = context.new_page()
        # a browser that draws without a graphics card, beside what else runs here
        page.set_default_timeout(120_000)
        # with each frame, as by default, would leave it less to draw with
        until = partial(page.wait_for_function, polling=500)
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

        page.goto(f"{url}/workers")
        until(SHOWN)
        until(f"() => {NAMES}.length > 0")
        assert sorted(page.evaluate(f"() => {NAMES}")) == ["Total (2)", "worker1-0", "worker2-0"]

        page.goto(f"{url}/status")
        until(SHOWN)
        assert page.evaluate(f"() => {IN_STREAM}") == 0
        assert client(COMPUTE) == sum(range(TASKS))
        # nothing was loaded again: it came by the websocket
        try:
            until(f"() => {IN_STREAM} == {TASKS}")
        except PlaywrightTimeout:
            pytest.fail(f"of {TASKS} tasks the stream shows {page.evaluate(f'() => {IN_STREAM}')}; {errors}")
        SCREENSHOT.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOT)

        of_worker = f"proxy/10200/{addresses['worker1']}/status"
        page.goto(f"{url}/{of_worker}")
        until(SHOWN)
        browser.close()
    assert sockets == [f"wss://{address}:8443/{page}/ws" for page in ("workers", "status", of_worker)]
    # a policy that is too strict for Bokeh is an error there
    assert errors == []
