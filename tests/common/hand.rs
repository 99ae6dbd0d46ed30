//! What programs do to an open volume, without a kernel.

use cairnfs::vfs::Vfs;
use cairnfs_fuse::{
    Attr, Caller, Errno, FileSystem, FileType, Ino, Lookup, Name, NewNode, OpenFlags, Rename,
    RenameFlags, Write,
};

use super::look::{Fs, RW};

/// What programs do, on one member.
pub struct Hand<'a>(pub &'a Vfs);

const NODE: NewNode = NewNode {
    kind: FileType::Regular,
    perm: 0o644,
    umask: 0,
    rdev: 0,
};

impl Hand<'_> {
    pub async fn find(&self, path: &str) -> Result<Ino, Errno> {
        let mut at = Ino::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let found = self.0.lookup(&Caller::ROOT, at, Name::new(name.as_bytes()));
            match found.wait().await? {
                Lookup::Found(entry) => at = entry.attr.ino,
                Lookup::Absent(_) => return Err(Errno::ENOENT),
            }
        }
        Ok(at)
    }

    async fn parent<'p>(&self, path: &'p str) -> Result<(Ino, Name<'p>), Errno> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(dir).await?, Name::new(name.as_bytes())))
    }

    pub async fn mkdir(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        let node = NewNode {
            kind: FileType::Directory,
            perm: 0o755,
            ..NODE
        };
        self.0.mkdir(&Caller::ROOT, dir, name, &node).wait().await?;
        Ok(())
    }

    /// Opens or makes a file, writes, and closes it.
    pub async fn write(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let ino = self.open(path).await?;
        self.write_open(ino, offset, bytes).await?;
        self.close(ino).await
    }

    /// The same, of a file that is to have nothing else.
    pub async fn replace(&self, path: &str, bytes: &[u8]) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        let flags = OpenFlags(libc::O_RDWR | libc::O_TRUNC);
        let made = self.0.create(&Caller::ROOT, dir, name, &NODE, flags);
        let ino = made.wait().await?.0.attr.ino;
        self.write_open(ino, 0, bytes).await?;
        self.close(ino).await
    }

    /// Waits until a file is durable.
    pub async fn fsync(&self, path: &str) -> Result<(), Errno> {
        let ino = self.find(path).await?;
        let fh = cairnfs_fuse::Fh(ino.0);
        self.0.fsync(ino, fh, false).wait().await
    }

    pub async fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        let found = self.0.getattr(&Caller::ROOT, ino, None).wait().await?;
        Ok(found.attr)
    }

    pub async fn open(&self, path: &str) -> Result<Ino, Errno> {
        let (dir, name) = self.parent(path).await?;
        let made = self
            .0
            .create(&Caller::ROOT, dir, name, &NODE, RW)
            .wait()
            .await?;
        Ok(made.0.attr.ino)
    }

    pub async fn write_open(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let write = Write {
            offset,
            bytes,
            flags: RW,
            is_from_cache: false,
            kill_suidgid: false,
        };
        let fh = cairnfs_fuse::Fh(ino.0);
        self.0.write(&Caller::ROOT, ino, fh, &write).wait().await?;
        Ok(())
    }

    pub async fn close(&self, ino: Ino) -> Result<(), Errno> {
        self.0
            .release(ino, cairnfs_fuse::Fh(ino.0), RW)
            .wait()
            .await
    }

    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let ino = self.find(path).await?;
        self.0.open(&Caller::ROOT, ino, RW).wait().await?;
        let read = self.read_open(ino).await;
        self.close(ino).await?;
        read
    }

    pub async fn read_open(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let fs: &dyn Fs = self.0;
        fs.content(ino, 65536).await
    }

    pub async fn unlink(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        self.0.unlink(&Caller::ROOT, dir, name).wait().await
    }

    pub async fn rmdir(&self, path: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path).await?;
        self.0.rmdir(&Caller::ROOT, dir, name).wait().await
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let ((parent, name), (new_parent, new_name)) =
            (self.parent(from).await?, self.parent(to).await?);
        let rename = Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags: RenameFlags::Replace,
        };
        self.0.rename(&Caller::ROOT, &rename).wait().await
    }

    pub async fn names(&self, path: &str) -> Vec<String> {
        let fs: &dyn Fs = self.0;
        let ino = self.find(path).await.unwrap();
        let names = fs.names(ino, false).await.unwrap();
        let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
        names.iter().map(text).collect()
    }
}
