//! `chat-admin bench`: that its figures come from work that was done.

use crate::cluster::{PATIENCE, TestCluster, program};
use chat::client::Client;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The description that `chat-server demo` writes.
fn describe(cluster: &TestCluster) -> PathBuf {
    let replicas: Vec<Value> = (1..=3)
        .map(|id| {
            json!({"id": id, "pid": cluster.pid(id), "client_addr": cluster.client_addr(id),
                "wire_addr": cluster.wire_addr(id), "data_dir": cluster.data_dir(id)})
        })
        .collect();
    let file = cluster.scratch().join("cluster.json");
    std::fs::write(&file, json!({ "replicas": replicas }).to_string()).unwrap();
    file
}

fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

fn object(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_cluster_is_filled_with_accounts_and_any_other_refuses() {
    let cluster = TestCluster::start_with(3, &["--test-cluster"]).await;
    let file = describe(&cluster);
    let file = file.to_str().unwrap();
    let prepare = ["bench", "prepare", "--output", "json", "--cluster", file];
    let arguments = [&prepare[..], &["--accounts", "700"]].concat();
    assert_eq!(
        object(&TestCluster::admin(&arguments))["accounts"],
        Value::from(700)
    );
    // Once more, and some beyond: those that are there stay.
    let arguments = [&prepare[..], &["--accounts", "20", "--first", "690"]].concat();
    object(&TestCluster::admin(&arguments));
    let handle = cluster.handle(PATIENCE);
    let login = Client::login(&handle, "user-0000699", "a test password", "").await;
    let client = login.unwrap();
    let listed = client.list_accounts("^user-", 1_000, "").await.unwrap();
    assert_eq!(listed.usernames.len(), 710);
    cluster.finish(&client).await;

    let cluster = TestCluster::start(3).await;
    let file = describe(&cluster);
    let prepare = ["bench", "prepare", "--cluster", file.to_str().unwrap()];
    let output = TestCluster::admin(&[&prepare[..], &["--accounts", "1"]].concat());
    assert!(!output.status.success());
    assert!(
        text(&output).contains("no test cluster"),
        "{}",
        text(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_was_delivered() {
    let cluster = TestCluster::start(3).await;
    let file = describe(&cluster);
    let page = cluster.scratch().join("bench.html");
    let last_index = || {
        let directory = cluster.data_dir(1);
        let directory = directory.to_str().unwrap();
        // An election on a busy machine is a status that shows an error, and a number all the same.
        let output = TestCluster::admin(&["status", "--output", "json", "--data-dir", directory]);
        let replicas: Value = serde_json::from_slice(&output.stdout).unwrap();
        let replicas = replicas.as_array().unwrap();
        replicas
            .iter()
            .filter_map(|r| r["last_index"].as_u64())
            .max()
            .unwrap()
    };
    for protocol in ["grpc", "grpc-stream", "wire"] {
        let before = last_index();
        let output = TestCluster::admin(&[
            "bench",
            "--cluster",
            file.to_str().unwrap(),
            "--protocol",
            protocol,
            "--in-flight",
            "8",
            "--senders",
            "2",
            "--warm-up",
            "0",
            "--seconds",
            "0.5",
            "--output",
            "json",
            "--html",
            page.to_str().unwrap(),
        ]);
        let report = object(&output);
        let acknowledged = report["messages"].as_u64().unwrap();
        let written = last_index() - before;
        assert!((1..=written).contains(&acknowledged), "{written}: {report}");
        assert!(report["messages_per_s"].as_f64().unwrap() > 0.0, "{report}");
        assert!(
            report["latency"]["p99_ms"].as_f64().unwrap() > 0.0,
            "{report}"
        );
        assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_cut_off_is_replaced() {
    let output = TestCluster::admin(&[
        "bench", "failover", "--blow", "cut", "--trials", "1", "--output", "json",
    ]);
    let report = object(&output);
    assert_eq!(report["trials"], Value::from(1));
    assert!(report["median_ms"].as_f64().unwrap() > 0.0, "{report}");
}

/// Ids of the processes whose command line has this in it.
fn processes_of(what: &Path) -> Vec<String> {
    let what = what.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .map(|process| process.unwrap().path())
        .filter(|process| {
            // One that has ended meanwhile, or is no process, has none.
            let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(what)
        })
        .map(|process| process.display().to_string())
        .collect()
}

#[test]
fn an_interrupted_measurement_leaves_neither_replicas_nor_files() {
    let scratch = tempfile::tempdir().unwrap();
    let mut bench = program(env!("CARGO_BIN_EXE_chat-admin"))
        .args(["bench", "--seconds", "600"])
        .env("TMPDIR", scratch.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while processes_of(scratch.path()).len() < 3 {
        assert!(Instant::now() < deadline, "three replicas were to start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let signalled = Command::new("kill")
        .args(["-INT", &bench.id().to_string()])
        .status();
    assert!(signalled.unwrap().success());
    assert!(!bench.wait().unwrap().success());
    assert_eq!(processes_of(scratch.path()), [""; 0]);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
