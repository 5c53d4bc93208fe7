//! Tests that need something which not every machine has.
//!
//! A plain `cargo test` leaves them out and says so. Where everything must run (`tools/check.sh` and
//! CI set `CHECK_STRICT` or `CI`) what is missing is a failure, unless `CHECK_MAY_SKIP` names it: a
//! gate that passes because it tested nothing is none.

/// What is needed is not there: says so, or fails where it must be.
pub fn skip(what: &str, why: &str) {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let allowed = std::env::var("CHECK_MAY_SKIP").unwrap_or_default();
    let allowed = allowed.split(',').any(|name| name == what || name == "all");
    assert!(
        allowed || !(set("CHECK_STRICT") || set("CI")),
        "{what} must be tested here, and cannot be: {why}. CHECK_MAY_SKIP={what} leaves it out"
    );
    eprintln!("skipped {what}: {why}");
}
