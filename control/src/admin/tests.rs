//! The control socket with clients that are real sockets, and a table that is made up.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use mio::{Events, Poll};

use super::*;

const LISTENER: Token = Token(2);
const FIRST: usize = 16;
/// Rows of the table, and what one takes.
const ROWS: usize = 65_536;
const ROW: &str = "\"02:00:00:00:00:01 is here\"";

/// A table of many rows, and a short answer; counts what it is asked for.
#[derive(Default)]
struct Table {
    begun: usize,
    parts: usize,
}

impl Answers for Table {
    type Answer = Option<usize>;

    fn begin(&mut self, command: &str) -> Option<Option<usize>> {
        self.begun += 1;
        match command {
            "status" => Some(None),
            "macs" => Some(Some(0)),
            _ => None,
        }
    }

    fn go_on(&mut self, answer: &mut Option<usize>, out: &mut Vec<u8>) -> bool {
        self.parts += 1;
        let Some(row) = answer else {
            out.extend_from_slice(br#"{"ok":1}"#);
            return false;
        };
        for number in *row..*row + 512 {
            out.extend_from_slice(if number == 0 { b"[" } else { b"," });
            out.extend_from_slice(ROW.as_bytes());
        }
        *row += 512;
        if *row == ROWS {
            out.push(b']');
        }
        *row < ROWS
    }
}

struct World {
    poll: Poll,
    happened: Events,
    admin: Admin<Option<usize>>,
    table: Table,
    now_ms: u64,
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ipop.sock");
        let poll = Poll::new().unwrap();
        // Not by `bind`, which changes the umask of the process while other tests make files.
        let listener = UnixListener::bind(&path).unwrap();
        let admin = Admin::new(&path, listener, poll.registry(), LISTENER, FIRST).unwrap();
        let (happened, table) = (Events::with_capacity(64), Table::default());
        World { poll, happened, admin, table, now_ms: 1000, directory }
    }

    fn connect(&self) -> StdStream {
        let stream = StdStream::connect(self.directory.path().join("ipop.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    /// One turn of the loop, as the gateway's.
    fn turn(&mut self) -> bool {
        self.turn_while(|| true)
    }

    fn turn_while(&mut self, goes_on: impl Fn() -> bool) -> bool {
        self.poll.poll(&mut self.happened, Some(Duration::ZERO)).unwrap();
        for event in &self.happened {
            match event.token() {
                LISTENER => self.admin.somebody_comes(),
                client => self.admin.wake(client),
            }
        }
        self.admin.turn(self.poll.registry(), self.now_ms, &mut self.table, goes_on)
    }

    /// Turns until there is nothing to do; how many.
    fn turns(&mut self) -> usize {
        (1..100_000).find(|_| !self.turn()).expect("it comes to an end")
    }

    fn clients(&self) -> usize {
        self.admin.clients.iter().flatten().count()
    }
}

fn reply(line: &str) -> String {
    reply_for(line, true)
}

fn reply_for(line: &str, may_change: bool) -> String {
    let reply = reply_to(line.as_bytes(), may_change, |command| {
        ["status", "rekey"].contains(&command).then(|| json!({"ok": 1}))
    });
    reply.unwrap_or_else(|error| error).to_string()
}

#[test]
fn requests_and_nonsense() {
    assert_eq!(reply(r#"{"command":"status"}"#), r#"{"ok":1}"#);
    assert!(reply("hello").contains("not JSON"));
    assert!(reply("{}").contains("no \\\"command\\\""));
    assert!(reply(r#"{"command":"frobnicate"}"#).contains("there are: status, peers, macs, arp, rpc, rekey"));
}

#[test]
fn who_may_only_ask_changes_nothing() {
    assert_eq!(reply_for(r#"{"command":"status"}"#, false), r#"{"ok":1}"#);
    for command in ["rekey", "macs release 02:00:00:00:00:01", "macs release"] {
        let answer = reply_for(&json!({ "command": command }).to_string(), false);
        assert!(answer.contains("only root may do that"), "{answer}");
    }
}

#[test]
fn a_client_that_pipelines_gets_one_answer_in_a_turn_and_all_in_the_end() {
    let mut world = World::new();
    let mut greedy = world.connect();
    greedy.write_all("{\"command\":\"status\"}\n".repeat(100).as_bytes()).unwrap();
    let mut other = world.connect();
    other.write_all(b"{\"command\":\"status\"}\n").unwrap();
    assert!(world.turn());
    assert_eq!(world.table.begun, 2, "one of each");
    let mut answer = String::new();
    BufReader::new(&other).read_line(&mut answer).unwrap();
    assert_eq!(answer, "{\"ok\":1}\n");
    // What was read with the first request is answered, though the kernel tells nothing any more.
    world.turns();
    assert_eq!(world.table.begun, 101);
    drop(other);
    greedy.shutdown(std::net::Shutdown::Write).unwrap();
    world.turns();
    let mut answers = String::new();
    greedy.read_to_string(&mut answers).unwrap();
    assert_eq!(answers, "{\"ok\":1}\n".repeat(100));
    assert_eq!(world.clients(), 0);
}

#[test]
fn where_time_is_short_clients_take_turns() {
    let mut world = World::new();
    let mut streams: Vec<_> = (0..4).map(|_| world.connect()).collect();
    for stream in &mut streams {
        stream.write_all("{\"command\":\"status\"}\n".repeat(50).as_bytes()).unwrap();
    }
    // Accepted, and each served once in four turns.
    for _ in 0..40 {
        assert!(world.turn_while(|| false));
    }
    for stream in &mut streams {
        let mut answers = [0; 1000];
        let len = stream.read(&mut answers).unwrap();
        let lines = answers[..len].iter().filter(|octet| **octet == b'\n').count();
        assert!((9..=10).contains(&lines), "{lines}");
    }
}

#[test]
fn a_large_table_arrives_whole() {
    let mut world = World::new();
    let mut stream = world.connect();
    let reader = std::thread::spawn({
        let stream = stream.try_clone().unwrap();
        move || {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        }
    });
    stream.write_all(b"{\"command\":\"macs\"}\n").unwrap();
    while !reader.is_finished() {
        world.turn();
    }
    let value: Value = serde_json::from_str(&reader.join().unwrap()).unwrap();
    assert_eq!(value.as_array().map(Vec::len), Some(ROWS));
}

#[test]
fn clients_that_do_not_read_cost_a_part_of_an_answer_each() {
    let mut world = World::new();
    let mut streams: Vec<_> = (0..MAX_CLIENTS).map(|_| world.connect()).collect();
    world.turns();
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        let requests = "{\"command\":\"macs\"}\n".repeat(20_000);
        let _ = stream.write(requests.as_bytes());
    }
    let turns = world.turns();
    assert!(turns < 100, "{turns} turns for sockets that take nothing");
    assert_eq!(world.table.begun, MAX_CLIENTS);
    let memory: usize = world.admin.clients.iter().flatten().map(Client::memory).sum();
    assert!(memory < 3 << 20, "{memory} octets");
    // They do not read at all, and are closed.
    world.now_ms += IDLE_MS;
    world.turn();
    assert_eq!(world.clients(), 0);
}

#[test]
fn one_that_reads_later_gets_the_rest() {
    let mut world = World::new();
    let mut stream = world.connect();
    stream.write_all("{\"command\":\"macs\"}\n{\"command\":\"status\"}\n".repeat(3).as_bytes()).unwrap();
    world.turns();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let reads = std::thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    });
    while !reads.is_finished() {
        world.turn();
    }
    let all = reads.join().unwrap();
    let lines: Vec<_> = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert!(lines.iter().step_by(2).all(|line| line.as_array().is_some_and(|rows| rows.len() == ROWS)));
}

#[test]
fn a_long_line_is_told_so_and_closed() {
    let mut world = World::new();
    let mut stream = world.connect();
    stream.write_all(&[b'x'; 3 * MAX_REQUEST]).unwrap();
    world.turns();
    let mut answer = [0; 200];
    let len = stream.read(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer[..len]).contains("one line of at most"));
    assert_eq!(world.clients(), 0);
}

#[test]
fn a_crowd_that_says_nothing_locks_nobody_out() {
    let mut world = World::new();
    let silent: Vec<_> = (0..100).map(|_| world.connect()).collect();
    world.turns();
    assert_eq!(world.clients(), MAX_CLIENTS);
    world.now_ms += 1;
    let mut stream = world.connect();
    stream.write_all(b"{\"command\":\"status\"}\n").unwrap();
    world.turns();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    drop(silent);
    world.turns();
    assert_eq!(world.clients(), 1);
}

/// In a process of its own, because no other test can live without descriptors.
#[test]
fn without_descriptors_clients_wait() {
    const IN_CHILD: &str = "IPOP_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(IN_CHILD).is_none() {
        let name = "admin::tests::without_descriptors_clients_wait";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && told.contains("1 passed"),
            "{told}{}",
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }
    let mut world = World::new();
    let early = world.connect();
    world.turns();
    let mut streams: Vec<_> = (0..3).map(|_| world.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"{\"command\":\"status\"}\n").unwrap();
    }
    // All that there are.
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, hard) = nix::sys::resource::getrlimit(limit).unwrap();
    nix::sys::resource::setrlimit(limit, 64, hard).unwrap();
    let hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!hoard.is_empty() && hoard.len() < 64);
    assert!(!world.turn(), "it does not spin");
    assert_eq!((world.clients(), world.admin.next_deadline()), (1, Some(world.now_ms + RETRY_MS)));
    // Nothing happens any more at the listener, and still they are accepted when there are descriptors again.
    world.now_ms += RETRY_MS - 1;
    assert!(!world.turn());
    drop(hoard);
    world.now_ms += 1;
    world.turns();
    assert_eq!((world.clients(), world.table.begun), (4, 3));
    assert_eq!(world.admin.next_deadline(), None);
    // One that is silent makes room.
    let hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    world.now_ms += SILENT_MS;
    drop(streams.remove(0));
    world.turns();
    let hoard: Vec<_> = hoard.into_iter().chain(std::iter::from_fn(|| File::open("/dev/null").ok())).collect();
    // This end is a descriptor too: it takes that of one of the hoard.
    let (mut hoard, mut stream) = (hoard, None);
    while stream.is_none() {
        drop(hoard.pop().expect("one is enough"));
        stream = StdStream::connect(world.directory.path().join("ipop.sock")).ok();
    }
    let mut stream = stream.unwrap();
    stream.write_all(b"{\"command\":\"status\"}\n").unwrap();
    assert!(!world.turn());
    assert_eq!(world.clients(), 2, "{:?}", world.admin.listening);
    world.now_ms += RETRY_MS;
    world.turns();
    assert_eq!(world.table.begun, 4);
    drop(early);
}
