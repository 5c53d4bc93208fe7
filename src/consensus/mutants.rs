//! Deliberately wrong variants of the protocol, for the mutation gate.
//!
//! Without the `mutants` feature [`Mutant::on`] is the constant `false`: no shipped binary can
//! switch one on.

/// A wrong variant. The simulator must find each of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Become primary at the end of the window if one's own ballot is best, without grants.
    DecideLocally,
    /// The term is not written.
    ForgetTerm,
    /// The grant is not written.
    ForgetGrant,
    /// Grant to the best ballot even if it is older than one's own log.
    GrantToOlder,
    /// "Newest" is the longest log, whatever its term.
    LongestIsNewest,
    /// At restart only committed entries are kept.
    KeepOnlyCommitted,
    /// Commit with one match fewer than a majority.
    CommitBeforeMajority,
    /// A primary counts itself when it sends the entries, not when its own fsync has ended.
    CountOwnEarly,
    /// Commit entries of earlier terms by counting.
    CommitEarlierTerm,
    /// A primary ignores a higher term.
    StayPrimary,
    /// Acknowledge when the entries arrive, not when they are durable.
    AckBeforeFsync,
    /// The term is raised without asking anybody whether the primary is missed.
    AskNobody,
    /// Agree with an asker whose copy is older than one's own.
    AgreeToOlder,
    /// Ballot again in the persisted term after a restart.
    ReballotAfterRestart,
    /// Adopt a copy that is older than one's own at the request.
    AdoptOlder,
    /// Adopt without raising the term to the copy's.
    AdoptWithoutTerm,
    /// Check "newer" only when the copy is requested, not when it is installed.
    AdoptUnchecked,
    /// Adopt a copy that lacks one's own committed prefix.
    AdoptWithoutPrefix,
    /// A crash in the middle of an adoption leaves half of it.
    AdoptTorn,
    /// An adopted entry counts as acknowledged to the primary.
    AdoptAcknowledges,
    /// An fsync that ends after a grant still acknowledges.
    AckAfterGrant,
    /// A new incarnation counts before its entry is committed.
    CountReadmittedEarly,
    /// A lazy hard-state write goes over the last fsynced generation.
    LazyOverwrites,
    /// A primary that stepped down comes back in the same term.
    PrimaryAgain,
    /// A token is judged when the request arrives.
    TokenOnArrival,
    /// A replica forms a second cluster though it has formed.
    FormTwice,
    /// A snapshot is installed though it is older than the commit point.
    SnapshotOlder,
    /// A repairing replica grants, ballots and acknowledges.
    GrantInRepair,
    /// A damaged store is opened as far as it can be read, and takes part.
    TruncateDamaged,
    /// A rewritten store becomes the live one without the entries of the last moment.
    SwapWithoutTail,
    /// An fsync that failed is tried again, and believed when it then succeeds.
    RetryFsync,
    /// A scrub reads nothing, and so finds nothing.
    ScrubNothing,
    /// A poll is asked in the present term, so that what it is about may still arrive.
    UnfencedPoll,
    /// A poll believes one answer fewer than a majority.
    PollMinority,
    /// A readmission is proposed while another waits for its commit.
    AdmitTwo,
    /// The level is raised when those who have shown theirs know it, whoever is away.
    RaiseEarly,
    /// A term's time begins at the primary's own clock.
    OwnClock,
    /// A read round counts answers to earlier rounds.
    StaleRound,
    /// A replica whose disk went back to an old copy keeps its promises' name.
    IgnoreRollback,
    /// Entries are taken from the primary before enough others have seen this run.
    WriteUnvouched,
    /// A truncation leaves no word of itself: a replica that is killed before the new entries have
    /// come takes itself for an old copy.
    TruncateUnnoted,
    /// What was acknowledged in the very term of a truncation is no alarm either.
    GiveUpOwnTerm,
    /// What is remembered of a replica's life before its readmission is asked of the present one.
    RememberOldLife,
    /// A restart forgets what was remembered of a replica since its readmission.
    ForgetAtReplay,
    /// A rewritten store is checked without the last entries, though its trees may stand at them.
    CheckWithoutTail,
    /// What is written while a rewritten store is checked does not come into it.
    ForgetMissed,
    /// The log of a rewritten store is cut above what its trees stand at.
    CutAboveTrees,
    /// The core is not told that the log was cut where it is.
    CutUntold,
    /// A repair ends where the lazily written mark stands, and not where the primary's log did.
    EndRepairAtMark,
    /// Digests are exchanged, and nothing is compared.
    CompareNothing,
    /// A replica whose state is doubted goes on serving.
    ServeQuarantined,
}

impl Mutant {
    /// Every variant.
    pub const ALL: [Self; 51] = [
        Self::DecideLocally,
        Self::ForgetTerm,
        Self::ForgetGrant,
        Self::GrantToOlder,
        Self::LongestIsNewest,
        Self::KeepOnlyCommitted,
        Self::CommitBeforeMajority,
        Self::CountOwnEarly,
        Self::CommitEarlierTerm,
        Self::StayPrimary,
        Self::AckBeforeFsync,
        Self::AskNobody,
        Self::AgreeToOlder,
        Self::ReballotAfterRestart,
        Self::AdoptOlder,
        Self::AdoptWithoutTerm,
        Self::AdoptUnchecked,
        Self::AdoptWithoutPrefix,
        Self::AdoptTorn,
        Self::AdoptAcknowledges,
        Self::AckAfterGrant,
        Self::CountReadmittedEarly,
        Self::LazyOverwrites,
        Self::PrimaryAgain,
        Self::TokenOnArrival,
        Self::FormTwice,
        Self::SnapshotOlder,
        Self::GrantInRepair,
        Self::TruncateDamaged,
        Self::SwapWithoutTail,
        Self::RetryFsync,
        Self::ScrubNothing,
        Self::UnfencedPoll,
        Self::PollMinority,
        Self::AdmitTwo,
        Self::RaiseEarly,
        Self::OwnClock,
        Self::StaleRound,
        Self::IgnoreRollback,
        Self::WriteUnvouched,
        Self::TruncateUnnoted,
        Self::GiveUpOwnTerm,
        Self::RememberOldLife,
        Self::ForgetAtReplay,
        Self::CheckWithoutTail,
        Self::ForgetMissed,
        Self::CutAboveTrees,
        Self::CutUntold,
        Self::EndRepairAtMark,
        Self::CompareNothing,
        Self::ServeQuarantined,
    ];

    /// Is this variant switched on in this thread?
    #[cfg(not(feature = "mutants"))]
    #[inline]
    pub const fn on(self) -> bool {
        false
    }

    /// Is this variant switched on in this thread?
    #[cfg(feature = "mutants")]
    pub fn on(self) -> bool {
        ACTIVE.with(|active| active.get() == Some(self))
    }

    /// Switches one variant (or none) on for this thread.
    #[cfg(feature = "mutants")]
    pub fn activate(mutant: Option<Self>) {
        ACTIVE.with(|active| active.set(mutant));
    }
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}
