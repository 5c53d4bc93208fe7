//! The one call of this tool that the standard library lacks. Not part of any shipped binary.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// `_IOR('X', 125, __u32)` of the kernel's `ext4.h`.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
/// Neither data nor journal are written first: what is only in memory is gone.
const NOLOGFLUSH: u32 = 2;

/// Stops the ext4 file system that this file lies on, as if its power were cut.
pub fn cut_power(file: &File) -> std::io::Result<()> {
    let flags = NOLOGFLUSH;
    // SAFETY: the descriptor is open, and the kernel reads one u32 from the pointer, which is valid
    // for the duration of the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const flags) };
    if done == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
