//! Logs that are cut while clients write: a replica that lacks what was cut is given the state, over
//! real connections, and counts and serves everything again.

use crate::cluster::{Load, Sent, TestCluster, check_inbox, eventually, read_inbox};
use crate::metrics::{address_since, known, scrape};
use std::path::Path;

/// The store is rewritten every second, if a tenth of the few entries that are kept can go.
const CUTS_ITS_LOG: [&str; 8] = [
    "--metrics-addr",
    "127.0.0.1:0",
    "--keep-entries",
    "100",
    "--rewrite-mib",
    "1",
    "--rewrite-age",
    "1s",
];

const BASE: &str = "chat_base_index";

/// What a replica's process says of itself that wrote its first line after `from`.
async fn say<const N: usize>(
    cluster: &TestCluster,
    id: u16,
    from: usize,
    names: [&str; N],
) -> Result<[u64; N], String> {
    let address = address_since(cluster, id, from).ok_or("it has not started")?;
    let page = scrape(&address).await;
    let mut values = [0; N];
    for (value, name) in values.iter_mut().zip(names) {
        *value = known(&page, name).ok_or_else(|| format!("no {name}"))?;
    }
    Ok(values)
}

/// The same, however busy it is.
async fn says(cluster: &TestCluster, id: u16, name: &str) -> u64 {
    let said = eventually("metrics", || say(cluster, id, 0, [name]));
    said.await[0]
}

/// Waits until the logs of these replicas, whose processes began after `from`, begin above an index.
async fn cut_above(cluster: &TestCluster, ids: &[(u16, usize)], index: u64) {
    for (id, from) in ids {
        eventually("log that is cut", async || {
            let [base] = say(cluster, *id, *from, [BASE]).await?;
            let is_cut = (base > index).then_some(());
            is_cut.ok_or_else(|| format!("replica {id}: from {base} on, not above {index}"))
        })
        .await;
    }
}

/// Waits until a replica that was started after `from` has installed a state above this index and
/// takes part; returns where its log begins. What a page says is not of one moment: all of it is
/// waited for.
async fn is_given_the_state(cluster: &TestCluster, id: u16, from: usize, above: u64) -> u64 {
    eventually("snapshot that is installed", async || {
        let names = [
            "chat_snapshots_received_total",
            "chat_adoptions_total",
            "chat_role{role=\"secondary\"}",
            "chat_role{role=\"primary\"}",
            BASE,
        ];
        let said = say(cluster, id, from, names).await?;
        let [received, adopted, secondary, primary, base] = said;
        assert_eq!(adopted, 0, "nobody has the beginning of the log");
        let takes_part = secondary + primary == 1;
        let given = received > 0 && base > above && takes_part;
        let given = given.then_some(base);
        given.ok_or_else(|| format!("{said:?}\n{}", cluster.log_since(id, from)))
    })
    .await
}

/// What becomes of a data directory whose replica is dead.
type Harm = fn(&Path);

/// It only misses what happens meanwhile.
fn nothing(_: &Path) {}

fn wiped(directory: &Path) {
    std::fs::remove_dir_all(directory).unwrap();
}

fn cut_short(directory: &Path) {
    let current = std::fs::read_to_string(directory.join("CURRENT")).unwrap();
    let db = directory.join(current.trim_end()).join("db");
    let file = std::fs::File::options().write(true).open(db).unwrap();
    file.set_len(4_096).unwrap();
}

/// Many messages from a new account, more than are kept in the logs.
async fn many(cluster: &TestCluster, from: &str) -> Vec<Sent> {
    let load = Load::start(&cluster.account(from).await, "bob");
    load.more(300).await;
    load.stop().await
}

/// One replica dies, and its data with it; the others write on and cut their logs above all that it
/// had. Then it comes back, under load.
async fn one_replica_comes_back_with_the_state(harm: Harm, of_the_primary: bool) {
    let mut cluster = TestCluster::start_with(3, &CUTS_ITS_LOG).await;
    let bob = cluster.account("bob").await;
    let mut sent = many(&cluster, "alice").await;
    cut_above(&cluster, &[(1, 0), (2, 0), (3, 0)], 1).await;

    let primary = cluster.primary(&bob).await;
    let victim = if of_the_primary {
        primary
    } else {
        primary % 3 + 1
    };
    let others = [victim % 3 + 1, (victim + 1) % 3 + 1];
    let had = says(&cluster, victim, "chat_last_index").await;
    cluster.kill(&[victim]);
    harm(&cluster.data_dir(victim));
    sent.extend(many(&cluster, "carol").await);
    cut_above(&cluster, &others.map(|id| (id, 0)), had + 100).await;

    let load = Load::start(&cluster.account("dave").await, "bob");
    load.more(1).await;
    let from = cluster.log_len(victim);
    cluster.spawn(victim);
    let base = is_given_the_state(&cluster, victim, from, had + 100).await;
    load.more(50).await;
    sent.extend(load.stop().await);
    let mut by = 0;
    for id in others {
        by += says(&cluster, id, "chat_snapshots_sent_total").await;
    }
    assert!(by > 0, "nobody sent it");

    // It counts: one of the others is not needed. And it cuts its own log as they do.
    cluster.kill(&[others[0]]);
    sent.extend(many(&cluster, "erin").await);
    cut_above(&cluster, &[(victim, from)], base).await;
    check_inbox(&read_inbox(&cluster.reader_on(victim, &bob)).await, &sent);
    cluster.spawn(others[0]);
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_replica_is_given_the_state_that_the_logs_no_longer_lead_to() {
    one_replica_comes_back_with_the_state(wiped, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_primary_is_given_the_state_that_the_logs_no_longer_lead_to() {
    one_replica_comes_back_with_the_state(cut_short, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_is_given_the_state_that_the_logs_no_longer_lead_to() {
    one_replica_comes_back_with_the_state(nothing, false).await;
}
