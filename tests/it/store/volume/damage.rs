//! Damaged, lost and foreign files: never a wrong value, never a panic, always a word of what to do.

use cairnfs::base::{Class, Classify, Entropy};
use cairnfs::store::mem_disk::Crash;
use cairnfs::store::{Disk, MemDisk, Volume, VolumeError, VolumeOpenError, VolumeOptions};

use super::support::{ID, Maker, Model, apply, content, open, store_on, tiny};
use crate::store::support::{scale, simulate};

fn name(base: &str) -> String {
    format!("volumes/{ID}/{base}")
}

/// A volume of a few hundred rows and some dirty data, closed or only synced.
async fn sample(is_closed: bool) -> (MemDisk, Vec<Model>) {
    let disk = MemDisk::new(1 << 30);
    let options = VolumeOptions {
        flush_rows: 10_000,
        flush_bytes: 1 << 20,
        flush_tail_bytes: 1 << 30,
        // One segment, also after the tables have what it says.
        segment_bytes: 64 << 20,
        unwritten_bytes: 4 << 20,
        ..tiny()
    };
    let (_store, volume, _) = super::support::open_with(&disk, options).await.unwrap();
    let mut maker = Maker::new(9);
    maker.keys = 2_000;
    let mut models = vec![Model::default()];
    for number in 0..200 {
        let (group, after) = maker.group(&models[models.len() - 1]);
        let seq = apply(&volume, &group).await.unwrap();
        models.push(after);
        if number % 10 == 9 {
            volume.sync(seq).await.unwrap();
        }
        if number == 100 {
            volume.flush().await.unwrap();
        }
    }
    if is_closed {
        volume.close().await.unwrap();
    }
    (disk.crash_image(&Crash::LoseAll), models)
}

/// Whether everything that is answered is right: each row and each piece, one by one.
fn check(volume: &Volume, model: &Model, what: &str) -> usize {
    let mut corrupt = 0;
    let mut judge =
        |found: Result<Option<bytes::Bytes>, VolumeError>, right: &bytes::Bytes| match found {
            Ok(found) => assert_eq!(found.as_ref(), Some(right), "{what}"),
            Err(VolumeError::Corrupt { .. }) => corrupt += 1,
            Err(error) => panic!("{what}: {error}"),
        };
    for ((space, key), value) in &model.rows {
        judge(volume.get(cairnfs::store::Space(*space), key), value);
    }
    for (id, bytes) in &model.dirty {
        let id = cairnfs::store::DirtyId(*id);
        judge(volume.read_dirty(id, 0, u32::MAX).map(Some), bytes);
    }
    match content(volume, 20) {
        Ok(found) => assert!(found == *model, "{what}"),
        Err(VolumeError::Corrupt { .. }) => corrupt += 1,
        Err(error) => panic!("{what}: {error}"),
    }
    corrupt
}

#[test]
fn tables_with_any_bit_flipped_give_no_wrong_value() {
    simulate(async {
        let (whole, models) = sample(true).await;
        let tables = name("tables.redb");
        let len = whole.open(&tables).unwrap().len().unwrap();
        let entropy = Entropy::seeded(5);
        let (mut opened, mut refused, mut corrupt) = (0, 0, 0);
        for round in 0..150 * scale() {
            let disk = whole.crash_image(&Crash::KeepAll);
            // The head of the file is where most is decided.
            let at = entropy.below(if round % 5 == 0 { 9_000 } else { len });
            assert!(disk.flip_bit(&tables, at, entropy.below(8) as u8));
            let what = format!("bit at byte {at} of {len}");
            let store = store_on(&disk).await;
            match store.open_volume(ID, tiny()).await {
                Ok((volume, _)) => {
                    opened += 1;
                    corrupt += check(&volume, &models[models.len() - 1], &what);
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.class(), Class::Corrupt, "{what}: {error}");
                    assert!(
                        error
                            .to_string()
                            .contains("restore it from its checkpoints"),
                        "{error}"
                    );
                }
            }
        }
        println!("{opened} opened, {refused} refused, {corrupt} reads refused");
        assert!(opened > 10 && corrupt > 10, "{opened} {refused} {corrupt}");
    });
}

#[test]
fn damage_that_comes_while_it_is_open_is_noticed() {
    simulate(async {
        let (disk, models) = sample(true).await;
        let tables = name("tables.redb");
        let len = disk.open(&tables).unwrap().len().unwrap();
        let (_store, volume, _) = open(&disk).await;
        let entropy = Entropy::seeded(6);
        for _ in 0..200 {
            disk.flip_bit(&tables, 8192 + entropy.below(len - 8192), 3);
        }
        assert!(check(&volume, &models[models.len() - 1], "many bits") > 0);
    });
}

#[test]
fn a_journal_with_any_bit_flipped_is_reported_or_cut_at_its_torn_end() {
    simulate(async {
        let (whole, models) = sample(false).await;
        let journal = whole.list(&format!("volumes/{ID}")).unwrap();
        let journal = journal
            .iter()
            .find(|name| name.starts_with("journal"))
            .unwrap();
        let journal = name(journal);
        let len = whole.open(&journal).unwrap().len().unwrap();
        let bytes = whole.open(&journal).unwrap().read_vec(0, 1 << 24).unwrap();
        let begins = bytes.windows(4).enumerate();
        let records: Vec<usize> = begins
            .filter(|(_, four)| four == b"CrnJ")
            .map(|(at, _)| at)
            .collect();
        let entropy = Entropy::seeded(5);
        let (mut fine, mut cut, mut refused) = (0, 0, 0);
        for round in 0..200 * scale() {
            let disk = whole.crash_image(&Crash::KeepAll);
            // Records are where it matters, and the tail.
            let record = records[entropy.below(records.len() as u64) as usize] as u64;
            let at = match round % 3 {
                0 => record + entropy.below(60),
                1 => len - 1 - entropy.below(20_000.min(len)),
                _ => entropy.below(len),
            };
            assert!(disk.flip_bit(&journal, at, entropy.below(8) as u8));
            let what = format!("bit at byte {at} of {len}");
            let store = store_on(&disk).await;
            match store.open_volume(ID, tiny()).await {
                Ok((volume, report)) => {
                    // Only the last write can pass for one that was never finished.
                    assert!(report.last.0 >= 190, "{what}: {report:?}");
                    match report.cut_bytes {
                        0 => fine += 1,
                        _ => cut += 1,
                    }
                    check(&volume, &models[report.last.0 as usize], &what);
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.class(), Class::Corrupt, "{what}: {error}");
                    drop(store);
                    // What can be saved can be had when it is asked for.
                    let store = store_on(&disk).await;
                    let options = VolumeOptions {
                        is_salvage: true,
                        ..tiny()
                    };
                    let (volume, report) = store.open_volume(ID, options).await.unwrap();
                    assert!(report.damaged_regions > 0, "{what}");
                    volume.close().await.unwrap();
                }
            }
        }
        println!("{fine} fine, {cut} cut, {refused} refused");
        assert!(fine > 5 && cut > 0 && refused > 5, "{fine} {cut} {refused}");
    });
}

#[test]
fn files_that_are_lost_cut_or_foreign_are_named() {
    simulate(async {
        let (whole, _) = sample(true).await;
        let names = whole.list(&format!("volumes/{ID}")).unwrap();
        assert_eq!(names.len(), 3, "{names:?}");
        for file in &names {
            for harm in ["lost", "empty", "cut", "garbage", "foreign"] {
                let disk = whole.crash_image(&Crash::KeepAll);
                let path = name(file);
                let stored = disk.open(&path).unwrap();
                let len = stored.len().unwrap();
                match harm {
                    "lost" => disk.remove(&path).unwrap(),
                    "empty" => stored.set_len(0).unwrap(),
                    "cut" => stored.set_len(len / 2).unwrap(),
                    "garbage" => {
                        let noise = vec![0xa5; len as usize];
                        stored
                            .write_at(0, &mut [std::io::IoSlice::new(&noise)])
                            .unwrap();
                    }
                    _ => {
                        // That of another volume.
                        let other = MemDisk::new(1 << 30);
                        let store = store_on(&other).await;
                        let first = cairnfs::base::VolumeId([9; 16]);
                        store.create_volume(first).await.unwrap();
                        store.create_volume(ID).await.unwrap();
                        let bytes = other.open(&path.replace(
                            file,
                            match file.as_str() {
                                name if name.starts_with("journal") => "journal-00000001",
                                name => name,
                            },
                        ));
                        let bytes = bytes.unwrap().read_vec(0, 1 << 24).unwrap();
                        stored.set_len(0).unwrap();
                        stored
                            .write_at(0, &mut [std::io::IoSlice::new(&bytes)])
                            .unwrap();
                    }
                }
                let store = store_on(&disk).await;
                let opened = store.open_volume(ID, tiny()).await;
                let error = opened
                    .err()
                    .unwrap_or_else(|| panic!("{file} {harm}: it opens"));
                let is_named = match (file.as_str(), harm) {
                    ("VOLUME", "lost") => matches!(error, VolumeOpenError::NotFound(_)),
                    _ => error.class() == Class::Corrupt,
                };
                assert!(is_named, "{file} {harm}: {error}");
                // It can still be removed, and made anew.
                let _ = store.remove_volume(ID).await;
                store.create_volume(ID).await.unwrap();
                store.open_volume(ID, tiny()).await.unwrap();
            }
        }
        let disk = whole.crash_image(&Crash::KeepAll);
        let marker = disk.open(&name("VOLUME")).unwrap();
        marker
            .write_at(0, &mut [std::io::IoSlice::new(b"cairn-volume 2")])
            .unwrap();
        let error = store_on(&disk)
            .await
            .open_volume(ID, tiny())
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                VolumeOpenError::Newer {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    });
}
