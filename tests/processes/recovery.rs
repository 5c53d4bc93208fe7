//! Damage beyond proof: the cluster halts and says so, and its operator chooses what to go on with.

use crate::cluster::{TestCluster, eventually, read_inbox};
use std::collections::BTreeMap;
use std::path::Path;

fn recover(cluster: &TestCluster, more: &[&str]) -> (bool, String) {
    let directories: Vec<String> = (1..=3)
        .map(|id| format!("{id}={}", cluster.data_dir(id).display()))
        .collect();
    let mut arguments = vec!["recover"];
    for directory in &directories {
        arguments.extend(["--data-dir", directory]);
    }
    arguments.extend(more);
    let output = TestCluster::admin(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), text + &errors)
}

/// Every file with its bytes, but for the lock.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_none_or(|end| end != "sock") && path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path.display().to_string(), bytes);
        }
    }
    found
}

async fn bodies(cluster: &TestCluster, reader: &chat::client::Client) -> Vec<String> {
    let inbox = read_inbox(&cluster.reader_on(1, reader)).await;
    let texts = inbox
        .iter()
        .map(|m| String::from_utf8_lossy(&m.body).into_owned());
    texts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_two_are_damaged_beyond_proof_and_the_operator_goes_on_with_the_third() {
    let mut cluster = TestCluster::start(3).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    alice.send("bob", "everyone has it").await.unwrap();
    read_inbox(&cluster.reader_on(3, &bob)).await;
    cluster.kill(&[3]);
    for number in 0..5 {
        let body = format!("two have it: {number}");
        alice.send("bob", body).await.unwrap();
    }
    cluster.kill(&[1, 2]);

    let (good, text) = recover(&cluster, &["--survivor", "3/store-0001"]);
    assert!(good && text.contains("this is lost"), "{text}");
    let lost = text.lines().filter(|line| line.contains("send_message"));
    assert_eq!(lost.count(), 5, "{text}");
    assert!(text.contains("COMMITTED"), "{text}");
    assert!(
        text.contains("readable in 1/store-0001, 2/store-0001"),
        "{text}"
    );
    let (good, text) = recover(&cluster, &[]);
    assert!(good && text.contains("nothing is lost"), "{text}");

    for id in [1, 2] {
        let db = cluster.data_dir(id).join("store-0001/db");
        let bytes = std::fs::metadata(&db).unwrap().len();
        std::fs::write(&db, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
    }
    for id in [1, 2, 3] {
        cluster.spawn(id);
    }
    let directory = cluster.data_dir(1).display().to_string();
    eventually("the replica says that it halts", || async {
        let output = TestCluster::admin(&["status", "--data-dir", &directory]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let halts = text.contains("halted") && text.contains("replicas 1, 2");
        if halts { Ok(()) } else { Err(text) }
    })
    .await;
    cluster.kill(&[1, 2, 3]);

    let before: Vec<_> = (1..=3).map(|id| files(&cluster.data_dir(id))).collect();
    let (good, text) = recover(&cluster, &[]);
    assert!(good, "{text}");
    assert!(
        text.contains("The newest that can be gone on with: 3/store-0001"),
        "{text}"
    );
    assert!(text.contains("readable nowhere"), "{text}");
    assert!(text.contains("Nothing was changed"), "{text}");
    let (good, text) = recover(&cluster, &["--confirm-survivor", "1/damaged-store-0001"]);
    assert!(!good && text.contains("cannot be gone on with"), "{text}");
    let after: Vec<_> = (1..=3).map(|id| files(&cluster.data_dir(id))).collect();
    assert!(before == after, "a look changes nothing");

    let (good, text) = recover(&cluster, &["--confirm-survivor", "3/store-0001"]);
    assert!(good && text.contains("Start them all"), "{text}");
    for id in [1, 2, 3] {
        assert!(cluster.data_dir(id).join("before-recover-1").is_dir());
        cluster.spawn(id);
    }
    alice.send("bob", "after the recovery").await.unwrap();
    assert_eq!(
        bodies(&cluster, &bob).await,
        ["everyone has it", "after the recovery"]
    );
    cluster.finish(&bob).await;
}
