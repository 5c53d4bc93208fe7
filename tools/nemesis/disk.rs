//! A disk for each replica: an ext4 file system in a loop-mounted file, so that it can really be
//! full; a plain directory where nothing can be mounted.

use crate::network::run;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// Bytes of the image file, which is sparse.
const IMAGE_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// Fills the disk when there.
const BALLAST: &str = "ballast";
/// How the name of a store begins that the replica has put aside for inspection.
const PUT_ASIDE: &str = "damaged-store-";
/// Bytes left when the disk counts as full: less than any write of a store.
const LEFT_BYTES: u64 = 16 * 1024;

/// A replica's disk. Unmounted when dropped; the image stays until the directory goes.
pub struct Disk {
    directory: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes and mounts a file system in this directory.
    pub fn mounted(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory.join("disk"))?;
        let image = directory.join("image");
        std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
        let (image, mount_point) = (text(&image)?, directory.join("disk"));
        let options = "lazy_itable_init=1,lazy_journal_init=1";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", options, &image])?;
        run("mount", &["-o", "loop", &image, &text(&mount_point)?])?;
        Ok(Self {
            directory: directory.to_owned(),
            mounted: true,
        })
    }

    /// A plain directory, which is never full.
    pub fn plain(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory.join("disk"))?;
        Ok(Self {
            directory: directory.to_owned(),
            mounted: false,
        })
    }

    /// It can be full.
    pub fn is_mounted(&self) -> bool {
        self.mounted
    }

    /// The replica's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("disk").join("data")
    }

    /// Leaves no room. A replica that writes meanwhile takes the rest.
    pub fn fill(&self) -> Result<()> {
        if !self.mounted {
            bail!("only a file system of its own can be full");
        }
        let ballast = text(&self.directory.join("disk").join(BALLAST))?;
        let mut chunk = IMAGE_BYTES;
        let mut length = 0;
        while chunk >= LEFT_BYTES {
            let (offset, size) = (length.to_string(), chunk.to_string());
            if run("fallocate", &["-o", &offset, "-l", &size, &ballast]).is_ok() {
                length += chunk;
            } else {
                // What a failed attempt took is given back.
                truncate(Path::new(&ballast), length)?;
                chunk /= 2;
            }
        }
        Ok(())
    }

    /// There is room again.
    pub fn empty(&self) -> Result<()> {
        let ballast = self.directory.join("disk").join(BALLAST);
        if ballast.exists() {
            std::fs::remove_file(ballast).context("cannot empty the disk")?;
        }
        Ok(())
    }

    /// The disk is lost and a new one is in its place.
    pub fn wipe(&self) -> Result<()> {
        remove(&self.data_dir())
    }

    /// What an operator does with a damaged store: it is kept for inspection, and out of the way.
    /// Only the last one is kept.
    pub fn set_aside(&self) -> Result<()> {
        let aside = self.directory.join("disk").join("damaged");
        remove(&aside)?;
        if self.data_dir().exists() {
            std::fs::rename(self.data_dir(), aside).context("cannot set the store aside")?;
        }
        Ok(())
    }

    /// All files with contents, but for those of stores that were put aside, in the order of their names.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        let mut directories = vec![self.data_dir()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(directory) else {
                continue;
            };
            for entry in entries.flatten() {
                match entry.metadata() {
                    Ok(data) if data.is_dir() => {
                        let name = entry.file_name();
                        if !name.to_string_lossy().starts_with(PUT_ASIDE) {
                            directories.push(entry.path());
                        }
                    }
                    Ok(data) if data.is_file() && data.len() > 0 => {
                        files.push((entry.path(), data.len()));
                    }
                    _ => {}
                }
            }
        }
        files.sort();
        files
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let mount_point = self.directory.join("disk");
            // Lazily, if something still looks into it.
            let _ = text(&mount_point).and_then(|path| {
                run("umount", &[&path]).or_else(|_| run("umount", &["-l", &path]))
            });
        }
    }
}

fn truncate(path: &Path, length: u64) -> Result<()> {
    if path.exists() {
        std::fs::File::options()
            .write(true)
            .open(path)?
            .set_len(length)?;
    }
    Ok(())
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is no UTF-8", path.display()))
}
