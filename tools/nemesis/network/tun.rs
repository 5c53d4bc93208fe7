//! The one call of this tool that the standard library lacks: a network device whose packets are
//! read and written as a file. Not part of any shipped binary.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `_IOW('T', 202, int)` of the kernel's `if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54CA;
/// IP packets, without Ethernet.
const IFF_TUN: libc::c_short = 0x0001;
/// And without a header of the driver's own.
const IFF_NO_PI: libc::c_short = 0x1000;
/// Bytes of an interface's name, the zero at the end included.
const NAME_BYTES: usize = 16;

/// The kernel's `struct ifreq` as this call uses it.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Creates a device in this process's network namespace. It is gone when the file is closed.
pub fn create(name: &str) -> io::Result<File> {
    let mut request = Request {
        name: [0; NAME_BYTES],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    if name.len() >= NAME_BYTES {
        return Err(io::Error::other("the name of a device is too long"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: the descriptor is open, and the kernel reads and writes one `struct ifreq` at the
    // pointer, which is valid and exclusive for the duration of the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    if done == 0 {
        Ok(file)
    } else {
        Err(io::Error::last_os_error())
    }
}
