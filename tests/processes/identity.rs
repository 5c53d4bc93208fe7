//! Boots: adoption, readmission, and what must never become a cluster.

use crate::cluster::{
    Load, SHORT, TestCluster, assert_unreachable, check_inbox, eventually, read_inbox, says,
};
use chat::client::{Client, NewAccount};

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_adopts_the_newest_copy_before_it_elects() {
    // Long enough that the two which are started surely meet before they stop waiting for the
    // third.
    let mut cluster = TestCluster::start_with(3, &["--initialize-wait", "3s"]).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let primary = cluster.primary(&alice).await;
    let (behind, ahead) = (primary % 3 + 1, (primary + 1) % 3 + 1);
    cluster.kill(&[behind]);
    let load = Load::start(&alice, "bob");
    load.more(300).await;
    let sent = load.stop().await;
    cluster.kill(&[primary, ahead]);

    let from = [
        (behind, cluster.log_len(behind)),
        (ahead, cluster.log_len(ahead)),
    ];
    cluster.spawn(behind);
    cluster.spawn(ahead);
    check_inbox(&read_inbox(&bob).await, &sent);
    let lines = |id: u16, from: usize, what: &str| -> Vec<String> {
        let log = cluster.log_since(id, from);
        let found = log
            .lines()
            .filter(|line| line.to_lowercase().contains(what));
        found.map(str::to_owned).collect()
    };
    let adopted = lines(behind, from[0].1, says::ADOPTED);
    assert_eq!(adopted.len(), 1, "{}", cluster.logs());
    let elections: Vec<String> = from
        .iter()
        .flat_map(|(id, from)| lines(*id, *from, says::ELECTION))
        .collect();
    assert!(!elections.is_empty(), "{}", cluster.logs());
    // A line begins with its time, in a form that sorts.
    for election in &elections {
        assert!(
            adopted[0] < *election,
            "{} came after {election}",
            adopted[0]
        );
    }
    cluster.spawn(primary);
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_replica_is_readmitted_and_counts() {
    let mut cluster = TestCluster::start(3).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let primary = cluster.primary(&bob).await;
    let (wiped, other) = (primary % 3 + 1, (primary + 1) % 3 + 1);
    cluster.kill(&[wiped]);
    cluster.wipe(wiped);
    cluster.spawn(wiped);
    // It has everything once it answers a linearizable read.
    read_inbox(&cluster.reader_on(wiped, &bob)).await;
    // Without the other one, the primary needs the readmitted one's word for each write.
    cluster.kill(&[other]);
    load.more(100).await;
    cluster.spawn(other);
    let sent = load.stop().await;
    check_inbox(&read_inbox(&cluster.reader_on(wiped, &bob)).await, &sent);
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_its_promises_keeps_its_log_and_is_readmitted() {
    let mut cluster = TestCluster::start(3).await;
    let (alice, bob) = (cluster.account("alice").await, cluster.account("bob").await);
    let load = Load::start(&alice, "bob");
    load.more(100).await;
    let primary = cluster.primary(&bob).await;
    let (victim, other) = (primary % 3 + 1, (primary + 1) % 3 + 1);
    cluster.kill(&[victim]);
    std::fs::remove_file(cluster.data_dir(victim).join("hard_state")).unwrap();
    cluster.spawn(victim);
    read_inbox(&cluster.reader_on(victim, &bob)).await;
    // Without the other one, the primary needs the readmitted one's word for each write.
    cluster.kill(&[other]);
    load.more(100).await;
    cluster.spawn(other);
    let sent = load.stop().await;
    check_inbox(&read_inbox(&cluster.reader_on(victim, &bob)).await, &sent);
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_wiped_directories_of_three_do_not_form_a_new_cluster() {
    let mut cluster = TestCluster::start(3).await;
    let (alice, _bob) = (cluster.account("alice").await, cluster.account("bob").await);
    alice.send("bob", "before the loss").await.unwrap();
    // Its own commit record may be behind the acknowledgement; its applied state is not.
    read_inbox(&cluster.reader_on(3, &alice)).await;
    cluster.kill(&[1, 2, 3]);
    cluster.wipe(1);
    cluster.wipe(2);
    for id in [1, 2] {
        cluster.spawn(id);
    }
    let new = || NewAccount::named("mallory", "a password");
    let handle = cluster.handle(SHORT);
    let refused = Client::create_account(&handle, new()).await;
    assert_unreachable(refused.err(), &cluster);
    let directory = cluster.data_dir(1).display().to_string();
    let status = TestCluster::admin(&["status", "--data-dir", &directory, "--output", "json"]);
    let replicas: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    for replica in &replicas.as_array().unwrap()[..2] {
        assert_eq!(replica["cluster"], "", "{replicas:#}");
        assert_eq!(replica["last_index"], 0, "{replicas:#}");
        let errors = replica["errors"].to_string();
        assert!(errors.contains("not formed"), "{errors}");
    }
    // With the third there is one set of promises of three: no majority either.
    cluster.spawn(3);
    let refused = Client::create_account(&handle, new()).await;
    assert_unreachable(refused.err(), &cluster);
    // And what the third had is still there for whoever repairs this.
    cluster.kill(&[3]);
    let dump = TestCluster::admin(&[
        "dump",
        "--data-dir",
        &cluster.data_dir(3).display().to_string(),
    ]);
    let text = String::from_utf8_lossy(&dump.stdout).into_owned();
    assert!(
        dump.status.success() && text.contains("send_message"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_directory_is_refused() {
    let cluster = TestCluster::start(1).await;
    let output = cluster.command(1).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let directory = cluster.data_dir(1).display().to_string();
    assert!(
        text.contains(&directory),
        "it does not say what is in use: {text}"
    );
    let alice = cluster.account("alice").await;
    cluster.finish(&alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_replica_or_a_larger_cluster_is_refused() {
    let mut cluster = TestCluster::start(3).await;
    let alice = cluster.account("alice").await;
    cluster.finish(&alice).await;
    let status = cluster.terminate(2).await;
    assert_eq!(status.code(), Some(0));

    // Replica 2's directory under replica 1's id.
    let mut command = crate::cluster::program(env!("CARGO_BIN_EXE_chat-server"));
    command.args(["run", "--id", "1", "--client-addr", cluster.client_addr(2)]);
    command.arg("--data-dir").arg(cluster.data_dir(2));
    command.args(["--peers", "1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3"]);
    let other = bounded(command).await;
    assert!(
        !other.status.success(),
        "another replica's directory is taken"
    );

    // The same without --peers: a cluster of one.
    let mut command = crate::cluster::program(env!("CARGO_BIN_EXE_chat-server"));
    command.args(["run", "--id", "2", "--client-addr", cluster.client_addr(2)]);
    command.arg("--data-dir").arg(cluster.data_dir(2));
    let alone = bounded(command).await;
    assert!(!alone.status.success(), "a member of three runs alone");
    let words = [
        "belongs to replica 2, and this is replica 1",
        "belongs to a cluster of the replicas 1, 2, 3",
    ];
    for (output, words) in [other, alone].into_iter().zip(words) {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(words), "{words:?}: {text}");
    }
    cluster.spawn(2);
    cluster.finish(&alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_with_the_same_ids_is_refused_by_the_others() {
    let mut cluster = TestCluster::start(3).await;
    let alice = cluster.account("alice").await;
    cluster.finish(&alice).await;
    let mut other = TestCluster::start(3).await;
    other.kill(&[3]);
    cluster.kill(&[3]);
    let (ours, theirs) = (cluster.data_dir(3), other.data_dir(3));
    let aside = cluster.scratch().join("aside");
    std::fs::rename(&ours, &aside).unwrap();
    std::fs::rename(&theirs, &ours).unwrap();

    let from: Vec<usize> = (1..=3).map(|id| cluster.log_len(id)).collect();
    cluster.spawn(3);
    let logged = |id: u16| {
        let log = cluster.log_since(id, from[usize::from(id) - 1]);
        let refusals = log.lines().filter(|line| line.contains(says::REFUSES));
        refusals.map(str::to_owned).collect::<Vec<_>>()
    };
    let directory = cluster.data_dir(1).display().to_string();
    let status = || TestCluster::admin(&["status", "--data-dir", &directory]);
    eventually("every replica says that it refuses the stranger", || {
        let told = (1..=3).all(|id| {
            let told = logged(id);
            told.iter()
                .any(|line| line.contains("it belongs to cluster"))
        });
        let shown = String::from_utf8_lossy(&status().stdout).into_owned();
        let refused = "it refuses to speak with replica 3: it belongs to cluster";
        let stranger = "it belongs to another cluster: check its data directory";
        let good = told && shown.contains(refused) && shown.contains(stranger);
        std::future::ready(if good { Ok(()) } else { Err(shown) })
    })
    .await;
    assert_eq!(status().status.code(), Some(1), "an error is no success");
    // Once for each connection, however often it speaks.
    for id in [1, 2] {
        assert!(logged(id).len() <= 2, "{:?}", logged(id));
    }
    // It counts for nothing, and the others go on.
    alice.send("alice", "without it").await.unwrap();

    cluster.kill(&[3]);
    std::fs::rename(&ours, &theirs).unwrap();
    std::fs::rename(&aside, &ours).unwrap();
    cluster.spawn(3);
    cluster.finish(&alice).await;
    eventually("status is good again", || {
        let output = status();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let good = output.status.code() == Some(0);
        std::future::ready(if good { Ok(()) } else { Err(shown) })
    })
    .await;
    cluster.kill(&[2]);
    assert_eq!(status().status.code(), Some(1), "one is unreachable");
    let nobody = cluster.data_dir(2).display().to_string();
    let output = TestCluster::admin(&["status", "--data-dir", &nobody]);
    assert_eq!(output.status.code(), Some(2), "nobody runs there");
}

/// Runs a command that must end by itself; kills it if it does not.
async fn bounded(mut command: std::process::Command) -> std::process::Output {
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let deadline = std::time::Instant::now() + SHORT * 4;
    eventually("end of a process that should refuse to run", || {
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
        }
        let ended = child.try_wait().unwrap();
        std::future::ready(ended.ok_or("it runs"))
    })
    .await;
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_verify_cannot_compare_is_called_by_its_name() {
    let mut clusters = [TestCluster::start(1).await, TestCluster::start(1).await];
    for cluster in &mut clusters {
        cluster.account("alice").await;
        cluster.kill(&[1]);
    }
    let [first, second] = clusters
        .each_ref()
        .map(|c| c.data_dir(1).display().to_string());
    let verify = ["verify", "--data-dir", &first, "--data-dir", &second];
    let output = TestCluster::admin(&verify);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("belongs to another cluster"), "{text}");

    let none = clusters[0].scratch().join("none").display().to_string();
    let output = TestCluster::admin(&["verify", "--data-dir", &none]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.matches(&none).count(), 1, "{text}");
}
