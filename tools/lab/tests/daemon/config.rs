//! Configs that are wrong, and those that only look odd; and the questions that a person may ask.

use std::os::unix::fs::PermissionsExt;

use ipop_control::keys::PrivateKey;
use ipop_lab::Lab;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::kit::{Outcome, Pair, ensure, failed_clearly, file, ipop, says};

/// A key, its wrong value, and what the message must say beside file and key.
type Wrong = (&'static str, Value, &'static [&'static str]);

fn wrong() -> Vec<Wrong> {
    let key = || PrivateKey::generate().expect("random numbers").public().to_string();
    let peer = |name: &str, address: &str| json!({ "name": name, "address": address, "public_key": key() });
    let with = |key: &str, value: Value| {
        let mut peer = peer("b", "10.99.0.2:5800");
        peer[key] = value;
        peer
    };
    let one_key = with("public_key", key().into());
    let mut same_key = one_key.clone();
    (same_key["name"], same_key["address"]) = ("c".into(), "10.99.0.3:5800".into());
    vec![
        ("switchmode", json!(0), &["only 1 is allowed"]),
        ("switchmode", json!("1"), &["is \"1\"", "only 1 is allowed"]),
        ("switchmode", Value::Null, &["missing", "\"switchmode\": 1"]),
        ("sec", json!("no"), &["true or false is allowed"]),
        ("private_key_file", Value::Null, &["missing", "ipop keygen --out", "\"sec\": false"]),
        ("private_key_file", json!("/nowhere/key"), &["/nowhere/key", "not there", "ipop keygen --out"]),
        ("private_key_file", json!("/etc/passwd"), &["others may use", "chmod 600 /etc/passwd"]),
        ("private_key_file", json!("/etc"), &["no regular file"]),
        ("brigde", json!("lxcbr0"), &["did you mean \"bridge\"?"]),
        ("frobnicate", json!(1), &["not a key", "switchmode"]),
        ("tap", json!("a-name-that-is-too-long"), &["1 to 15 characters"]),
        ("tap", json!("a/b"), &["is \"a/b\"", "1 to 15 characters"]),
        ("tap", json!(""), &["not empty"]),
        ("bridge", json!("ipop"), &["same interface as \"tap\""]),
        ("bridge", json!(7), &["is 7"]),
        ("port", json!("eth1"), &["is \"eth1\"", "{ \"af_packet\": \"eth1\" }"]),
        ("port", json!({ "afpacket": "eth1" }), &["did you mean \"af_packet\"?"]),
        ("port", json!({ "af_packet": "eth1" }), &["\"tap\": cannot be there beside \"port\"", "leave one"]),
        ("listen", Value::Null, &["missing", "10.99.0.1:5800"]),
        ("listen", json!("10.99.0.1"), &["is \"10.99.0.1\"", "such as \"10.99.0.1:5800\""]),
        ("listen", json!("gw-a:5800"), &["is \"gw-a:5800\"", "IP address"]),
        ("listen", json!("10.99.0.1:0"), &["1 to 65535"]),
        ("listen", json!("239.1.1.1:5800"), &["multicast"]),
        ("arp_expiry", json!(0), &["1 to 86400"]),
        ("arp_expiry", json!("300"), &["is \"300\"", "whole number"]),
        ("mac_expiry", json!(-1), &["is -1", "1 to 86400"]),
        ("network", json!(16_777_216), &["0 to 16777215"]),
        ("workers", json!(0), &["1 to 64"]),
        ("cpus", json!([0, 1]), &["2 cores for 1 workers"]),
        ("cpus", json!("0"), &["list of core numbers"]),
        ("cpus", json!([1023]), &["core 1023"]),
        ("io_uring", json!("no"), &["true or false is allowed"]),
        ("offloads", json!(false), &["object of switches"]),
        ("offloads", json!({ "tsu": false }), &["offloads.tsu", "did you mean \"tso\"?"]),
        ("offloads", json!({ "udp_gro": 0 }), &["offloads.udp_gro", "true or false is allowed"]),
        ("user", json!(7), &["name of a user is allowed"]),
        ("confine", json!("no"), &["true or false is allowed"]),
        ("mtu", json!(100), &["576 to"]),
        ("max_macs", json!(1.5), &["is 1.5", "whole number"]),
        ("control_socket", json!(["x"]), &["text"]),
        ("peers", Value::Null, &["missing"]),
        ("peers", json!({}), &["list of objects"]),
        ("peers", json!(["10.99.0.2:5800"]), &["peers[0]", "\"address\""]),
        ("peers", json!([{ "name": "b" }]), &["peers[0].address", "missing"]),
        ("peers", json!([{ "name": "b", "adress": "10.99.0.2:1" }]), &["did you mean \"address\"?"]),
        ("peers", json!([peer("local", "10.99.0.2:5800")]), &["peers[0].name", "local"]),
        ("peers", json!([peer("b", "10.99.0.1:5800")]), &["peers[0].address", "own \"listen\" address"]),
        ("peers", json!([peer("b", "[fd99::2]:5800")]), &["both must be IPv4 or both IPv6"]),
        ("peers", json!([peer("b", "10.99.0.2:1"), peer("b", "10.99.0.3:1")]), &["peers[1].name", "twice"]),
        ("peers", json!([peer("b", "10.99.0.2:1"), peer("c", "10.99.0.2:1")]), &["peers[1].address", "\"b\" already"]),
        (
            "peers",
            json!([{ "name": "b", "address": "10.99.0.2:1" }]),
            &["peers[0].public_key", "missing", "ipop pubkey"],
        ),
        ("peers", json!([with("public_key", json!("AAAA"))]), &["peers[0].public_key", "\"AAAA\" is no key"]),
        ("peers", json!([with("public_key", json!(format!("{}=", "A".repeat(43))))]), &["low order"]),
        ("peers", json!([one_key, same_key]), &["peers[1].public_key", "key of \"b\" already"]),
        ("peers", json!([with("allowed_macs", json!(["00:16:3e"]))]), &["peers[0].allowed_macs", "has \"00:16:3e\""]),
        (
            "peers",
            json!([with("allowed_ips", json!(["10.0.3.1/24"]))]),
            &["peers[0].allowed_ips", "bits behind the prefix"],
        ),
        ("peers", json!([with("max_addresses", json!(0))]), &["peers[0].max_addresses", "1 to 65536"]),
        ("max_macs_per_peer", json!("many"), &["is \"many\"", "whole number"]),
        ("peers", json!([with("preshared_key_file", json!("/nowhere/key"))]), &["peers[0].preshared_key_file"]),
    ]
}

/// Each of them is refused by `check` and by `run`, with file, key, fault and remedy.
pub(crate) fn wrong_configs() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    for (key, value, parts) in wrong() {
        let mut config = gateway.config();
        if value.is_null() {
            config.as_object_mut().ok_or("no object")?.remove(key);
        } else {
            config[key] = value.clone();
        }
        let path = file(&lab, "wrong.json", &config.to_string())?.display().to_string();
        for command in ["check", "run"] {
            let output = ipop(gateway, &[command, "--config", &path])?.output()?;
            let what = format!("ipop {command} with {key} {value}");
            failed_clearly(&what, &output, &[path.as_str(), &format!("\"{key}")])?;
            failed_clearly(&what, &output, parts)?;
        }
    }
    Ok(())
}

/// Keys are made by the program itself, stay with their owner, and are not written over; `check` shows whose they are.
pub(crate) fn keys() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    let path = |name: &str| lab.lab_run().dir().join(name).display().to_string();
    let (key, shared) = (path("key"), path("shared"));
    let made = ipop(gateway, &["keygen", "--out", &key])?.run()?;
    let public = made.strip_suffix('\n').ok_or("not one line")?;
    ensure(public.len() == 44 && public.ends_with('='), format!("no public key: {made}"))?;
    ensure(ipop(gateway, &["keygen", "--preshared", "--out", &shared])?.run()?.is_empty(), "a secret was printed")?;
    for file in [&key, &shared] {
        ensure(std::fs::metadata(file)?.permissions().mode() & 0o7777 == 0o600, format!("the mode of {file}"))?;
        let again = ipop(gateway, &["keygen", "--out", file])?.output()?;
        failed_clearly("keygen over a key", &again, &[file, "is there already"])?;
    }
    ensure(ipop(gateway, &["pubkey", &key])?.run()? == made, "another public key")?;
    let piped = gateway.exec(["sh", "-c", &format!("{} pubkey - < {key}", ipop_lab::ipop_binary()?.display())])?;
    ensure(piped.stdout == made, format!("another public key from standard input: {}", piped.stderr))?;
    let unsaid = path("unsaid");
    let full = format!("{} keygen --out {unsaid} > /dev/full", ipop_lab::ipop_binary()?.display());
    failed_clearly("keygen that is not heard", &gateway.exec(["sh", "-c", &full])?, &[&unsaid, "was not kept"])?;
    ensure(!std::path::Path::new(&unsaid).exists(), "a key is there whose public key nobody has seen")?;
    failed_clearly("keygen to stdout", &ipop(gateway, &["keygen", "--out", "-"])?.output()?, &["name one"])?;

    let mut config = gateway.config();
    config["private_key_file"] = "key".into();
    config["peers"][0]["preshared_key_file"] = "shared".into();
    let check = |config: &Value| -> Result<_, Failed> {
        let path = file(&lab, "keys.json", &config.to_string())?.display().to_string();
        Ok(ipop(gateway, &["check", "--config", &path])?.output()?)
    };
    says("check", &check(&config)?.stdout, &["good", public])?;
    std::os::unix::fs::chown(&key, Some(65534), None)?;
    failed_clearly("another's key", &check(&config)?, &["private_key_file", "user 65534", &format!("chown 0 {key}")])?;
    std::os::unix::fs::chown(&key, Some(0), None)?;
    config["peers"][0]["public_key"] = public.into();
    failed_clearly("its own key", &check(&config)?, &["peers[0].public_key", "this gateway's own", "gw-b"])?;
    config["sec"] = false.into();
    let clear = check(&config)?;
    says("check", &clear.stdout, &["good", "none, clear text"])?;
    says("check", &clear.stderr, &["\"sec\" is false", "\"private_key_file\" is not used"])
}

/// Values of the right kind, more or less, that cannot work or cannot be meant. All are tried, so that one message tells
/// which of them pass.
pub(crate) fn values_that_cannot_work() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    let peer = |name: &str, key: Value| json!([{ "name": name, "address": "10.99.0.2:5800", "public_key": key }]);
    let mut accepted = Vec::new();
    for (what, key, value) in [
        // A hello that carries it does not fit what the other side takes, so the link would never come up.
        ("a name of 2000 characters", "name", json!("n".repeat(2000))),
        // It would forge lines of the log and of the tables.
        ("a name of two lines", "name", json!("gw\nERROR")),
        ("a peer's name of two lines", "peers", peer("gw-b\nERROR", json!("x"))),
        ("a number as public key", "peers", peer("gw-b", json!(7))),
        ("a number as key file", "private_key_file", json!(7)),
        // sun_path of unix(7) has 108 octets.
        ("a socket path that is too long", "control_socket", json!(format!("/tmp/{}", "s".repeat(200)))),
        ("a broadcast address", "listen", json!("255.255.255.255:5800")),
    ] {
        let mut config = gateway.config();
        config[key] = value;
        let path = file(&lab, "odd.json", &config.to_string())?.display().to_string();
        let output = ipop(gateway, &["check", "--config", &path])?.output()?;
        match output.status.code() {
            Some(0) => accepted.push(what),
            _ => failed_clearly(what, &output, &[&path, &format!("\"{key}")])?,
        }
    }
    ensure(accepted.is_empty(), format!("accepted: {}", accepted.join(", ")))
}

/// What is no JSON object at all, or no file.
pub(crate) fn no_config() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    for (name, text, part) in [
        ("empty.json", "", "not valid JSON"),
        ("cut.json", "{ \"switchmode\": 1,", "line 1"),
        ("list.json", "[]", "one JSON object"),
        ("twice.json", "{ \"switchmode\": 1, \"switchmode\": 1 }", "there twice"),
        ("comma.json", "{\n  \"switchmode\": 1,\n}", "line 3"),
    ] {
        let path = file(&lab, name, text)?.display().to_string();
        for command in ["check", "run"] {
            let output = ipop(gateway, &[command, "--config", &path])?.output()?;
            failed_clearly(name, &output, &[&path, part])?;
        }
    }
    let binary = file(&lab, "binary.json", "")?;
    std::fs::write(&binary, [0xff, 0xfe, 0, 1])?;
    for path in [binary.display().to_string(), "/nowhere/at/all.json".into(), lab.lab_run().dir().display().to_string()]
    {
        let output = ipop(gateway, &["run", "--config", &path])?.output()?;
        failed_clearly("no config", &output, &[&path, "cannot be read"])?;
    }
    Ok(())
}

/// Keys of IPOP's own controllers do no harm: they are named, with what replaces them.
pub(crate) fn keys_of_ipop() -> Outcome {
    let lab = Lab::builder().build()?;
    let gateway = lab.gateway(0);
    let mut config = gateway.config();
    config["xmpp_host"] = "talk.google.com".into();
    config["stun"] = json!(["stun.l.google.com:19302"]);
    config["ip4"] = "10.0.3.1".into();
    let path = file(&lab, "ipop.json", &config.to_string())?.display().to_string();
    let output = ipop(gateway, &["check", "--config", &path])?.output()?;
    ensure(output.success(), format!("{}: {}", output.status, output.stderr))?;
    says("check", &output.stdout, &["good", "10.99.0.1:5800", "gw-b"])?;
    says("check", &output.stderr, &["warning", "\"xmpp_host\"", "\"peers\"", "\"stun\"", "\"ip4\""])?;
    let daemon = gateway.start_ipop(&config)?;
    says("the log", &daemon.log(), &["\"xmpp_host\"", "\"stun\"", "\"ip4\""])
}

/// Every question is answered as a table and as JSON, and clearly where nobody can answer.
pub(crate) fn questions() -> Outcome {
    let (pair, a, b) = Pair::joined()?;
    let mac = pair.c1.mac().to_owned();
    let cases: [(&str, &str, &[&str]); 5] = [
        (
            "status",
            "/frames/to_peer",
            &["gateway", "gw-a", "encrypted", "ipop in bridge lxcbr0", "1 of 1 up", "dropped"],
        ),
        ("peers", "/peers/0/path_mtu", &["PEER", "gw-b", "10.99.0.2:5800", "up"]),
        ("macs", "/macs/0/expires_in_s", &["VLAN", "MAC", &mac, "gw-b", "local"]),
        ("arp", "/entries/0/expires_in_s", &["ADDRESS", "10.0.3.104", &mac, "gw-b", "local"]),
        ("rpc", "/messages/0/at_ms", &["arp_request", "\"target_ip4\":\"10.0.3.104\"", "arp_reply", "-->", "<--"]),
    ];
    for (kind, number, parts) in cases {
        says(kind, &a.query(kind, false).run()?, parts)?;
        let json = a.status(kind)?;
        ensure(json.pointer(number).is_some_and(Value::is_u64), format!("{kind}: no number at {number}: {json}"))?;
    }
    // What passed is what was counted.
    ensure(a.counter("/frames/to_peer")? >= 1 && a.counter("/frames/delivered")? >= 1, "the ping was not counted")?;
    let parts = [
        "ipop_encrypted 1\n",
        "ipop_peer_up{peer=\"gw-b\"} 1\n",
        "# TYPE ipop_dropped_total counter\n",
        "ipop_frames_total{ending=\"delivered\"} ",
    ];
    says("metrics", &a.query("metrics", false).run()?, &parts)?;
    let table = a.query("nonsense", false).output()?;
    ensure(table.status.code() == Some(2), "a command that does not exist")?;
    // The socket of one that was killed stays; nobody answers there.
    let (query, absent) = (b.query("status", false), "/nowhere/ipop.sock");
    b.kill();
    failed_clearly("a dead socket", &query.output()?, &["nobody answers", "gw-b/ipop.sock"])?;
    for kind in ["status", "peers", "macs", "arp", "rpc", "metrics"] {
        let output = ipop(pair.gateway(0), &[kind, "--socket", absent])?.output()?;
        failed_clearly("no socket", &output, &["no control socket", absent, "ipop run"])?;
        ensure(output.stdout.is_empty(), "an error and an answer")?;
    }
    Ok(())
}
