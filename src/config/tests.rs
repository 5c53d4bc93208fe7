//! Flags, environment, file and defaults, and what is refused.

use super::*;

fn flags(peers: &str, id: Option<u16>) -> Flags {
    Flags {
        id,
        data_dir: Some("data".into()),
        peers: (!peers.is_empty()).then(|| peers.to_owned()),
        ..Flags::default()
    }
}

/// Without the environment of the test's own process.
fn load(flags: &Flags) -> Result<Config, ConfigError> {
    Config::load_with(
        flags,
        Serialized::defaults(BTreeMap::<String, String>::new()),
    )
}

fn problem(flags: &Flags) -> String {
    sentence(load(flags).unwrap_err())
}

/// As a person reads it.
fn sentence(error: ConfigError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// With this in the environment.
fn problem_of(environment: &[(&str, &str)]) -> String {
    let variables = environment.iter().map(|(name, value)| {
        let value: figment::value::Value = value.parse().expect("any text is a value");
        ((*name).to_owned(), value)
    });
    let environment: BTreeMap<_, _> = variables.collect();
    let loaded = Config::load_with(&flags("", None), Serialized::defaults(environment));
    sentence(loaded.unwrap_err())
}

#[test]
fn peers_that_name_nobody_are_not_a_cluster_of_one() {
    let expected =
        "--peers: names nobody: expected ID=HOST:PORT,…, or leave it out for a cluster of one";
    for text in ["", " ", ",", " , "] {
        let given = Flags {
            peers: Some(text.to_owned()),
            ..flags("", None)
        };
        assert_eq!(problem(&given), expected, "{text:?}");
        assert_eq!(problem_of(&[("peers", text)]), expected, "{text:?}");
    }
}

#[test]
fn times_and_sizes_beyond_all_sense_are_refused_and_not_bent() {
    let given = |change: fn(&mut Flags)| {
        let mut flags = flags("", None);
        change(&mut flags);
        flags
    };
    let product = given(|flags| {
        flags.election_iters = Some(u32::MAX);
        flags.refresh_interval = Some("30d".into());
    });
    let refused = problem(&product);
    assert!(refused.starts_with("--election-iters: a primary would be missed only after"));
    let zero = given(|flags| flags.election_iters = Some(0));
    assert_eq!(problem(&zero), "--election-iters: must be at least 1");
    for (flags, expected) in [
        (
            given(|flags| flags.token_idle = Some("1us".into())),
            "--token-idle: must be at least 1s",
        ),
        (
            given(|flags| flags.retention = Some("999ms".into())),
            "--retention: must be at least 1s",
        ),
        (
            given(|flags| flags.cache_mib = Some(7)),
            "--cache-mib: 7 must be a number from 8 to 1048576",
        ),
        (
            given(|flags| flags.rewrite_mib = Some(0)),
            "--rewrite-mib: 0 must be a number from 1 to 1048576",
        ),
        (
            given(|flags| flags.min_free_mib = Some(u64::MAX)),
            "--min-free-mib: 18446744073709551615 must be a number from 0 to 1073741824",
        ),
    ] {
        assert_eq!(problem(&flags), expected);
    }
    let day = given(|flags| {
        flags.election_iters = Some(24);
        flags.refresh_interval = Some("1h".into());
    });
    assert_eq!(
        load(&day).unwrap().replica().node.election_timeout_us(),
        86_400_000_000
    );
}

#[test]
fn a_number_in_place_of_a_text_is_told_what_is_expected() {
    assert_eq!(
        problem_of(&[("retention", "90")]),
        "--retention: `90` is no time: expected a number and us, ms, s, m, h or d"
    );
    assert_eq!(
        problem_of(&[("client_addr", "7400")]),
        "--client-addr: `7400` is no address: expected HOST:PORT"
    );
    let told = problem_of(&[("election_iters", "many")]);
    assert_eq!(told.matches("found string").count(), 1, "{told}");
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chat.toml");
    let text = "id = 2\npeers = \"1=a:1,2=b:1,3=c:1\"\n\
                refresh_interval = \"7ms\"\nwrite_timeout = \"7s\"\nelection_iters = 7\n";
    std::fs::write(&file, text).unwrap();
    let environment = BTreeMap::from([
        ("write_timeout", "8s"),
        ("log", "debug"),
        ("wire_addr", "w:1"),
    ]);
    let flags = Flags {
        config: Some(file),
        data_dir: Some("d".into()),
        election_iters: Some(9),
        ..Flags::default()
    };
    let config = Config::load_with(&flags, Serialized::defaults(environment)).unwrap();
    assert_eq!(config.id, ReplicaId(2));
    assert_eq!(config.ids().len(), 3);
    assert_eq!(config.peer_addr().unwrap().as_str(), "b:1");
    assert_eq!(config.refresh_interval, Duration::from_millis(7));
    assert_eq!(config.write_timeout, Duration::from_secs(8));
    assert_eq!(config.log, "debug");
    assert_eq!(config.election_iters, 9);
    assert_eq!(config.initialize_wait, Duration::from_secs(2));
    assert_eq!(config.client_addr.as_str(), "127.0.0.1:7400");
    assert_eq!(config.wire_addr.unwrap().as_str(), "w:1");
    assert_eq!(config.wire_advertise_addr, None);
}

#[test]
fn without_peers_it_is_a_cluster_of_one_with_id_1() {
    let config = load(&flags("", None)).unwrap();
    assert_eq!(
        (config.id, config.ids()),
        (ReplicaId(1), vec![ReplicaId(1)])
    );
    assert_eq!(config.peer_addr(), None);
    assert_eq!(config.token_idle, Duration::from_secs(3600));
    assert_eq!(config.retention, None);
    assert_eq!(config.replica().retention_us, 0);
}

#[test]
fn an_even_number_of_replicas_is_a_warning() {
    let config = load(&flags("1=h:1,2=h:2", Some(1))).unwrap();
    assert_eq!(
        config.warnings,
        ["2 replicas survive no more faults than 1: use an odd number"]
    );
    let config = load(&flags("1=h:1,2=h:2,3=h:3", Some(1))).unwrap();
    assert!(config.warnings.is_empty());
}

#[test]
fn every_mistake_has_its_sentence() {
    let many = (1..=9).map(|n| format!("{n}=h:{n}"));
    let many = many.collect::<Vec<_>>().join(",");
    for (peers, id, expected) in [
        (
            "1=h:1,2=h:2,3=h:3",
            Some(4),
            "--peers: must name all replicas, and this one (4) is missing",
        ),
        (
            "1=h:1,2=h:2,3=h:3",
            None,
            "--id: is needed with --peers: which of them this replica is",
        ),
        ("1=h:1,1=h:2", Some(1), "--peers: names replica 1 twice"),
        (
            "1=h:1,2=h:1",
            Some(1),
            "--peers: replicas 1 and 2 have the same address",
        ),
        (
            "1=h",
            Some(1),
            "--peers: `h` is no address: expected HOST:PORT",
        ),
        (
            "1=h:70000",
            Some(1),
            "--peers: `h:70000` is no address: expected HOST:PORT",
        ),
        (
            "h:1",
            Some(1),
            "--peers: `h:1` has no id: expected ID=HOST:PORT",
        ),
        (
            "0=h:1",
            Some(1),
            "--peers: `0` is no replica id: ids are numbers from 1",
        ),
        (
            &many,
            Some(1),
            "--peers: names 9 replicas: at most 7 are supported",
        ),
        ("", Some(0), "--id: ids begin at 1"),
    ] {
        assert_eq!(problem(&flags(peers, id)), expected);
    }
    let no_directory = Flags::default();
    assert!(problem(&no_directory).starts_with("--data-dir: is needed"));
    let unit = Flags {
        refresh_interval: Some("100".into()),
        ..flags("", None)
    };
    assert_eq!(
        problem(&unit),
        "--refresh-interval: `100` is no time: expected a number and us, ms, s, m, h or d"
    );
    let zero = Flags {
        write_timeout: Some("0s".into()),
        ..flags("", None)
    };
    assert_eq!(
        problem(&zero),
        "--write-timeout: `0s` must be more than 0 and at most 30 days"
    );
    let address = Flags {
        client_addr: Some("localhost".into()),
        ..flags("", None)
    };
    assert_eq!(
        problem(&address),
        "--client-addr: `localhost` is no address: expected HOST:PORT"
    );
    let file = Flags {
        config: Some("/nonexistent/chat.toml".into()),
        ..flags("", None)
    };
    assert!(problem(&file).starts_with("--config: cannot read /nonexistent/chat.toml"));
}

#[test]
fn a_misspelt_setting_in_the_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chat.toml");
    std::fs::write(&file, "refresh_intervall = \"7ms\"\n").unwrap();
    let flags = Flags {
        config: Some(file),
        ..flags("", None)
    };
    assert!(problem(&flags).contains("refresh_intervall"));
}
