            -- r, a rejected version with an end, is newer than k, the newest accepted one of its stay, and k was open then.
            and r.reports_end and r.source = k.source and r.stay_id = k.stay_id
            and (r.known_at, r.batch_id) >= (k.available_at, k.batch_id)
            and ((k.outtime is null and k.outcome is null) or k.outtime > r.known_at)
