//! What can still be said of a damaged log: how far it can be read, and whether it has an end.

use super::recovery::{Fault, Source};
use super::verify::breaks_chain;
use super::{Recovered, StorageError};
use crate::consensus::Repair;
use crate::types::{Index, Stamp, Term};

/// What can be said of a damaged log. If it has a readable end, not below the mark and above the
/// damage, nothing was ever held above that: it is trusted as the end of an undamaged log is.
pub(super) fn shape_of(
    source: &impl Source,
    recovered: &Recovered,
) -> Result<Repair, StorageError> {
    let state = recovered.hard_state.as_ref();
    let mark = state.map_or(Stamp::ZERO, |state| state.mark);
    let last = readable_end(source, recovered)?;
    let end = recovered.last;
    let committed = recovered
        .commit
        .map_or(Index(0), |record| record.stamp.index);
    Ok(if end.index > last && end >= mark {
        Repair::Ended(end.index)
    } else if committed <= last && last > Index(0) {
        Repair::Suspect(last)
    } else {
        Repair::UnderWay
    })
}

/// The last entry of a damaged log that can be trusted: it continues what the trees stand at, block
/// after block, and its successor (or the checksum of its block) vouches for it.
pub(super) fn readable_end(
    source: &impl Source,
    recovered: &Recovered,
) -> Result<Index, StorageError> {
    let base = &recovered.base;
    let applied = recovered.applied.as_ref();
    let (start, mut hash) = applied.map_or((base.stamp.index, base.hash), |slice| {
        (slice.applied, slice.hash)
    });
    let mut last = Stamp::new(Term(0), start);
    loop {
        let block = match source.block_from(last.index.next()) {
            Ok(Some(block)) => block,
            Ok(None) | Err(Fault::Found(_)) => return Ok(last.index),
            Err(Fault::Failed(error)) => return Err(error),
        };
        for entry in &block {
            if breaks_chain(last, hash, entry).is_some() {
                // Either of the two may be the wrong one.
                return Ok(last.index.previous().max(start));
            }
            (last, hash) = (entry.stamp(), entry.hash());
        }
    }
}
