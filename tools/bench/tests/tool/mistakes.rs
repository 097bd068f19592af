//! What goes wrong is explained, and what one end does wrong does not end the other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use ipop_lab::trials::Outcome;
use ipop_lab::{Cmd, Netns};
use libtest_mimic::Failed;

use crate::kit::{Bench, FAR, NEAR, PROGRAM, ensure, fails, far, packets};

/// An ordinary user.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const STEADY: [&str; 6] = ["--rate", "1000", "--size", "100", "--seconds", "0.2"];

pub(crate) fn no_server() -> Outcome {
    let bench = Bench::by_cable()?;
    fails(&bench.run(&[]), 2, &["nothing listens on 10.0.3.104:7410", "ipop-bench serve"])?;
    let nobody = bench.near.command([PROGRAM, "run", "--to", "10.0.3.77"]);
    fails(&nobody, 2, &["10.0.3.77:7410 cannot be reached", "ping 10.0.3.77"])
}

/// Listens inside a namespace, and answers one connection with a text.
fn answers(netns: &Netns, text: &'static str) -> Result<(), Failed> {
    let listener = netns.within(|| TcpListener::bind("0.0.0.0:7410"))??;
    thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            drop(listener);
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.read(&mut [0; 4096]);
            thread::sleep(Duration::from_millis(200));
        }
    });
    Ok(())
}

pub(crate) fn other_version() -> Outcome {
    let bench = Bench::by_cable()?;
    let hello = "{\"reply\":\"hello\",\"protocol\":99,\"version\":\"9.9.9\",\"mac\":[2,0,0,0,0,1],\"mtu\":1400,\"switches\":1}\n";
    answers(bench.far.netns(), hello)?;
    fails(&bench.run(&[]), 2, &["protocol 99 (ipop-bench 9.9.9)", "use the same version on both ends"])?;
    // And the other way round: an older client at a newer server. The port is held until the last one hangs up.
    thread::sleep(Duration::from_millis(300));
    let _serve = bench.serve()?;
    let mut stream =
        bench.near.netns().within(|| TcpStream::connect(SocketAddr::new(FAR.parse().expect("an address"), 7410)))??;
    stream.write_all(b"{\"request\":\"hello\",\"protocol\":0,\"version\":\"0.0.1\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    ensure(line.contains("protocol 0 (ipop-bench 0.0.1)") && line.contains("same version"), &line)
}

pub(crate) fn stranger() -> Outcome {
    let bench = Bench::by_cable()?;
    answers(bench.far.netns(), "SSH-2.0-OpenSSH_9.2\r\n")?;
    fails(&bench.run(&[]), 2, &["something else than ipop-bench"])
}

pub(crate) fn port_taken() -> Outcome {
    let bench = Bench::by_cable()?;
    let _serve = bench.serve()?;
    fails(&bench.far.command([PROGRAM, "serve"]), 2, &["[::]:7410 is taken", "--listen"])?;
    let foreign = bench.far.command([PROGRAM, "serve", "--listen", "192.0.2.1"]);
    fails(&foreign, 2, &["no interface here has the address 192.0.2.1"])
}

pub(crate) fn busy() -> Outcome {
    let bench = Bench::by_cable()?;
    let _serve = bench.serve()?;
    let first = bench.run(&["--rate", "1000", "--seconds", "2"]).spawn()?;
    thread::sleep(Duration::from_millis(500));
    fails(&bench.run(&STEADY), 2, &["measuring with somebody else"])?;
    first.wait(Duration::from_secs(10))?.into_stdout()?;
    // And then it is free again.
    bench.run(&STEADY).run()?;
    Ok(())
}

pub(crate) fn no_permission() -> Outcome {
    let bench = Bench::by_cable()?;
    let _serve = bench.serve()?;
    let line = [PROGRAM, "run", "--to", FAR];
    fails(&bench.near.command(NOBODY.into_iter().chain(line)), 2, &["CAP_NET_RAW", "as root"])?;
    // TCP needs no privilege.
    let tcp = r#"{"name": "tcp", "about": "", "tcp": {"flows": [1], "seconds": 0.1, "omit": 0}}"#;
    let output = bench.near.run(NOBODY.into_iter().chain(line).chain(["--scenario", tcp]))?;
    ensure(output.contains("tcp/1/forward"), &output)
}

pub(crate) fn not_root() -> Outcome {
    for command in ["lab", "compare"] {
        fails(&Cmd::new(NOBODY.into_iter().chain([PROGRAM, command])), 2, &["needs root", "sudo"])?;
    }
    Ok(())
}

pub(crate) fn garbage() -> Outcome {
    let bench = Bench::by_cable()?;
    let mut serve = bench.serve()?;
    let long = vec![b'x'; 200_000];
    let texts: [&[u8]; 11] = [
        b"",
        b"\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"{\"request\":\"stop\"}\n{\"request\":\"count-flows\",\"seconds\":1e300}\n",
        b"{\"request\":\"receive-flows\",\"flows\":4000000000,\"tag\":1}\n",
        b"{\"request\":\"receive-packets\",\"kind\":\"udp\",\"size\":60,\"mtu\":1400,\"tag\":1}\n",
        b"{\"request\":\"receive-packets\",\"kind\":\"raw\",\"size\":\"imix\",\"mtu\":0,\"tag\":1}\n{\"request\":\"stop\"}\n",
        b"{\"request\":\"receive-packets\",\"kind\":\"udp\",\"size\":\"imix\",\"mtu\":18446744073709551615,\"tag\":1}\n",
        b"{\"request\":\"\x1b]0;title\x07\"}\n",
        &long,
        &[0xff; 100],
    ];
    for text in texts {
        let address = far(7410)?;
        let mut stream = bench.near.netns().within(|| TcpStream::connect(address))??;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // It may hang up while we still write.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    ensure(serve.ended()?.is_none(), &serve.stderr())?;
    let found = packets(&bench.measure(&STEADY)?)?;
    ensure(found.sent == 200 && found.lost == 0, &format!("{found:?}"))?;
    ensure(!serve.stderr().contains("panicked") && !serve.stderr().contains('\x1b'), &serve.stderr())
}

pub(crate) fn server_killed() -> Outcome {
    let bench = Bench::by_cable()?;
    let mut serve = bench.serve()?;
    let run = bench.run(&["--rate", "1000", "--seconds", "2"]).spawn()?;
    thread::sleep(Duration::from_millis(500));
    serve.kill();
    let output = run.wait(Duration::from_secs(20))?;
    ensure(!output.success() && output.stderr.contains("ipop-bench: "), &output.stderr)
}

pub(crate) fn arguments() -> Outcome {
    let dir = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String, Failed> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let broken = file("broken.json", "{}")?;
    let newer = file("newer.json", "{\"schema\": 99}")?;
    let scenario = file("scenario.json", "{\"name\": \"x\", \"about\": \"\", \"tpc\": {}}")?;
    let taken = dir.path().display().to_string();
    file("result.json", "{}")?;
    let cases: [(&[&str], &[&str]); 11] = [
        (&["run", "--to", NEAR, "--out", &taken], &["result.json exists already", "another --out"]),
        (&[], &["Usage"]),
        (&["run"], &["--to"]),
        (&["run", "--to", "no such host"], &["--to"]),
        (&["run", "--to", NEAR, "--rate", "-1"], &["unexpected argument"]),
        (&["run", "--to", NEAR, "--scenario", "nonsense"], &["no scenario \"nonsense\"", "quick"]),
        (&["run", "--to", NEAR, "--scenario", &scenario], &["scenario.json", "unknown field `tpc`"]),
        (&["report", &broken], &["broken.json is no result of ipop-bench"]),
        (&["report", "/nowhere/x.json"], &["reading /nowhere/x.json"]),
        (&["diff", &newer, &broken], &["schema version 99", "reads version 1"]),
        (&["compare", "--systems", "hamachi"], &["no system is called \"hamachi\"", "vxlan"]),
    ];
    for (arguments, words) in cases {
        fails(&Cmd::new([PROGRAM].iter().chain(arguments).copied()), 2, words)?;
    }
    Ok(())
}
