//! Power cuts at every change of the disk that a scripted life of a volume makes.

use cairnfs::base::{Class, Classify, Entropy};
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{Disk, Group, MemDisk, Seq, VolumeError, VolumeOpenError};

use super::support::{ID, Maker, Model, apply, content, open, open_with, store_on, tiny};
use crate::store::support::{scale, simulate};

/// The groups of the script, and the model after each (the first is that of an empty volume).
fn groups(count: usize) -> (Vec<Group>, Vec<Model>) {
    let mut maker = Maker::new(4);
    let (mut groups, mut models) = (Vec::new(), vec![Model::default()]);
    for _ in 0..count {
        let (group, after) = maker.group(&models[models.len() - 1]);
        groups.push(group);
        models.push(after);
    }
    (groups, models)
}

/// Whatever the disk does, what was promised: the volume is there, and up to which group it is synced.
#[derive(Debug, Default)]
struct Promise {
    is_there: bool,
    synced: Seq,
}

async fn script(disk: &MemDisk, groups: &[Group], promise: &mut Promise) -> Result<(), Class> {
    let options = tiny();
    for part in groups.chunks(groups.len() / 2) {
        let opened = open_with(disk, options.clone()).await;
        let (store, volume, _) = opened.map_err(|error| error.class())?;
        promise.is_there = true;
        let life = async {
            for (number, group) in part.iter().enumerate() {
                let seq = apply(&volume, group).await?;
                match number % 7 {
                    2 | 5 => {
                        volume.sync(seq).await?;
                        promise.synced = seq;
                    }
                    6 => {
                        volume.flush().await?;
                        promise.synced = seq;
                    }
                    _ => {}
                }
            }
            let last = volume.usage().applied;
            volume.clone().close().await?;
            promise.synced = last;
            Ok::<_, VolumeError>(())
        };
        life.await.map_err(|error| error.class())?;
        store.close().await.map_err(|error| error.class())?;
    }
    Ok(())
}

/// Opens a store where the crash may have hit the store itself before there was a volume.
async fn check(image: &MemDisk, models: &[Model], promise: &Promise, what: &str) {
    let store = store_on(image).await;
    let (volume, report) = match store.open_volume(ID, tiny()).await {
        Ok(opened) => opened,
        Err(VolumeOpenError::NotFound(_)) if !promise.is_there => {
            // What is left of it is in nobody's way.
            store.create_volume(ID).await.unwrap();
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    assert_eq!(report.damaged_regions, 0, "{what}");
    assert!(
        report.last >= promise.synced,
        "{what}: {report:?} {promise:?}"
    );
    let expected = &models[report.last.0 as usize];
    assert_eq!(&content(&volume, 50).unwrap(), expected, "{what}");
    volume.close().await.unwrap();
    let (volume, again) = store.open_volume(ID, tiny()).await.unwrap();
    assert_eq!(
        (again.last, again.replayed_groups),
        (report.last, 0),
        "{what}"
    );
    assert_eq!(&content(&volume, 50).unwrap(), expected, "{what}");
}

#[test]
fn nothing_synced_is_lost_and_no_group_is_torn_wherever_the_power_fails() {
    let (groups, models) = groups(56);
    simulate(async {
        let whole = MemDisk::new(1 << 30);
        let mut promise = Promise::default();
        script(&whole, &groups, &mut promise).await.unwrap();
        assert_eq!(promise.synced, Seq(groups.len() as u64));
        let names = whole.list(&format!("volumes/{ID}")).unwrap();
        assert!(
            !names.contains(&"journal-00000001".to_owned()),
            "{names:?}: one was removed"
        );
        let changes = whole.changes();
        assert!(changes > 200, "{changes}");
        for at in 0..changes {
            for seed in [at % 3].into_iter().chain(3..2 + u64::from(scale())) {
                let what = format!("power cut at {at} of {changes}, seed {seed}");
                let disk = MemDisk::new(1 << 30);
                disk.power_off_at(at);
                let mut promise = Promise::default();
                let store_made = script(&disk, &groups, &mut promise);
                let _ = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(store_made))
                    .await;
                let mode = match seed {
                    0 => Crash::LoseAll,
                    1 => Crash::KeepAll,
                    _ => Crash::Random(Entropy::seeded(at * 1000 + seed)),
                };
                check(&disk.crash_image(&mode), &models, &promise, &what).await;
            }
        }
    });
}

/// Small groups, each synced by whoever applied it. Answers how long a journal became.
async fn synced_here(
    disk: &MemDisk,
    groups: &[Group],
    promise: &mut Promise,
) -> Result<u64, Class> {
    // No flush takes back what is filled ahead of the records.
    let options = cairnfs::store::VolumeOptions {
        flush_rows: 10_000,
        flush_bytes: 1 << 20,
        ..tiny()
    };
    let opened = open_with(disk, options).await;
    let (store, volume, _) = opened.map_err(|error| error.class())?;
    promise.is_there = true;
    let mut longest = 0;
    for group in groups {
        let seq = volume.apply(group).map_err(|error| error.class())?;
        // Nobody else writes, so it says no only where the disk does.
        if !volume.sync_here() {
            return Err(Class::Retry);
        }
        promise.synced = seq;
        let dir = format!("volumes/{ID}");
        for name in disk.list(&dir).map_err(|_| Class::Retry)? {
            if name.starts_with("journal-") {
                let file = disk.open(&format!("{dir}/{name}"));
                let len = file.and_then(|file| file.len()).map_err(|_| Class::Retry)?;
                longest = longest.max(len);
            }
        }
    }
    volume.close().await.map_err(|error| error.class())?;
    store.close().await.map_err(|error| error.class())?;
    Ok(longest)
}

#[test]
fn what_was_synced_by_its_writer_is_kept_also_where_the_journal_was_filled_ahead() {
    let (mut groups, mut models) = (Vec::new(), vec![Model::default()]);
    for number in 0..60u64 {
        let (mut group, mut after) = (Group::new(), models[models.len() - 1].clone());
        let (key, value) = ((number % 9).to_be_bytes(), vec![number as u8; 900]);
        group.put(cairnfs::store::Space(1), &key, &value);
        after.rows.insert((1, key.to_vec()), value.into());
        groups.push(group);
        models.push(after);
    }
    simulate(async {
        let whole = MemDisk::new(1 << 30);
        let mut promise = Promise::default();
        let longest = synced_here(&whole, &groups, &mut promise).await.unwrap();
        assert_eq!(promise.synced, Seq(60));
        // To the end of the segment, long before the records came so far; and a second one was begun.
        assert_eq!(longest, u64::from(tiny().segment_bytes));
        let names = whole.list(&format!("volumes/{ID}")).unwrap();
        assert!(
            names
                .iter()
                .any(|name| name.as_str() > "journal-00000001" && name.starts_with("journal")),
            "{names:?}"
        );
        for at in 0..whole.changes() {
            for mode in [
                Crash::LoseAll,
                Crash::KeepAll,
                Crash::Random(Entropy::seeded(at)),
            ] {
                let what = format!("power cut at {at}, {mode:?}");
                let disk = MemDisk::new(1 << 30);
                disk.power_off_at(at);
                let mut promise = Promise::default();
                let life = synced_here(&disk, &groups, &mut promise);
                let _ = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(life)).await;
                check(&disk.crash_image(&mode), &models, &promise, &what).await;
            }
        }
    });
}

#[test]
fn a_volume_whose_removal_is_interrupted_is_there_or_gone() {
    simulate(async {
        let prepare = || async {
            let disk = MemDisk::new(1 << 30);
            let (store, volume, _) = open(&disk).await;
            let mut group = Group::new();
            group.put(cairnfs::store::Space(1), b"key", b"value");
            let seq = volume.apply(&group).unwrap();
            volume.sync(seq).await.unwrap();
            volume.close().await.unwrap();
            (disk, store)
        };
        let (disk, store) = prepare().await;
        let before = disk.changes();
        store.remove_volume(ID).await.unwrap();
        let changes = disk.changes() - before;
        assert!(disk.list(&format!("volumes/{ID}")).unwrap().is_empty());
        assert_eq!(store.volumes().await.unwrap(), []);
        for at in 0..changes {
            for seed in 0..4 {
                let (disk, store) = prepare().await;
                disk.power_off_at(disk.changes() + at);
                let removed = store.remove_volume(ID).await;
                let image = disk.crash_image(&Crash::seeded(seed));
                let store = store_on(&image).await;
                let listed = store.volumes().await.unwrap();
                match store.open_volume(ID, tiny()).await {
                    Ok((volume, _)) => {
                        assert!(removed.is_err());
                        assert_eq!(listed, [ID]);
                        assert_eq!(content(&volume, 9).unwrap().rows.len(), 1);
                    }
                    Err(VolumeOpenError::NotFound(_)) => {
                        assert_eq!(listed, []);
                        store.create_volume(ID).await.unwrap();
                        let (volume, _) = store.open_volume(ID, tiny()).await.unwrap();
                        assert_eq!(content(&volume, 9).unwrap(), Model::default());
                    }
                    Err(error) => panic!("cut at {at}: {error}"),
                }
            }
        }
    });
}
